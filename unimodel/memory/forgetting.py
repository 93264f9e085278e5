"""Who is forgotten when memory has a budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unimodel.memory.record import ROW, ForgetPolicy, StoreSettings


def least_worth_first(
    rows: np.ndarray, policy: ForgetPolicy, used_ids: np.ndarray, used_steps: np.ndarray
) -> np.ndarray:
    """[n] places of `rows` in the order in which they are forgotten; of equal ones the older id goes first. `used_ids`
    [u] ascend and have been used last at `used_steps` [u]."""
    worth = rows["surprise"] if policy is ForgetPolicy.SURPRISE else rows["step"]
    if policy is ForgetPolicy.USE and len(used_ids):
        place = np.minimum(np.searchsorted(used_ids, rows["id"]), len(used_ids) - 1)
        is_used = used_ids[place] == rows["id"]
        worth = np.where(is_used, np.maximum(worth, used_steps[place]), worth)
    return np.lexsort((rows["id"], worth))


def count_to_forget(sizes: Sequence[int] | np.ndarray, budget_bytes: int) -> int:
    """How many of records of `sizes` [n] bytes, the first ones, must go so that the rest fits. Raises ValueError when
    not one of them would be left."""
    excess = np.sum(sizes) - budget_bytes
    count = 0 if excess <= 0 else int(np.searchsorted(np.cumsum(sizes), excess)) + 1
    if count and count >= len(sizes):
        raise ValueError(
            f"a budget of {budget_bytes} bytes holds no record: the last one to go takes {sizes[-1]} bytes"
        )
    return count


def require_room_for_one(budget_bytes: int, settings: StoreSettings) -> None:
    """Raises ValueError for a budget below the smallest record there can be."""
    smallest = ROW.itemsize + settings.key_row.itemsize
    if budget_bytes < smallest:
        raise ValueError(f"a budget of {budget_bytes} bytes holds no record: the smallest takes {smallest} bytes")
