"""Which samples share a row, and which rows a rank gets."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Groups of indices whose lengths sum to at most `capacity`; longest first, each into the fullest row it fits
    (Johnson 1974). O(n log n), but for the moves within a sorted list of rows.

    Raises ValueError when one length alone exceeds `capacity`.
    """
    rows: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if length > capacity:
            raise ValueError(
                f"a sequence of {length} tokens does not fit a row of {capacity}: raise batch.row_tokens to at least "
                f"{length}, or take fewer frames or shorter text"
            )
        place = bisect_left(space, (length, -1))
        if place < len(space):
            left, row = space.pop(place)
            rows[row].append(index)
        else:
            left, row = capacity, len(rows)
            rows.append([index])
        if left > length:
            insort(space, (left - length, row))
    return rows


def deal_by_cost(costs: Sequence[float], num_ranks: int) -> list[list[int]]:
    """Deals rows to ranks, equally many each, the dearest first to the rank that has least: indices per rank, rising.

    Raises ValueError when the rows do not divide.
    """
    if len(costs) % num_ranks:
        raise ValueError(f"{len(costs)} rows do not divide among {num_ranks} ranks: change batch.rows")
    hands: list[list[int]] = [[] for _ in range(num_ranks)]
    totals = [0.0] * num_ranks
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        rank = min((r for r in range(num_ranks) if len(hands[r]) < len(costs) // num_ranks), key=totals.__getitem__)
        hands[rank].append(index)
        totals[rank] += costs[index]
    return [sorted(hand) for hand in hands]
