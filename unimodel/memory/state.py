"""The state of a memory: named tensors whose first axis is the row (world) that each belongs to. It is never changed in
place, so a copy is free, and what there is to do with any state is written once, here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]
"""Names are `MECHANISM/PART`."""


def part_of(state: State, name: str) -> State:
    """What of a state belongs to the mechanism `name`, without its name."""
    return {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}


def named(state: State, name: str) -> State:
    """The reverse of `part_of`."""
    return {f"{name}/{key}": value for key, value in state.items()}


def detach(state: State) -> State:
    """A new state that no gradient passes. The caller's own keeps its graph: who wants to truncate uses the result."""
    return {key: value.detach() for key, value in state.items()}


def choose(rows: Tensor, there: State, here: State) -> State:
    """`there` where bool `rows` [rows] is true, else `here`. What is not chosen gets no gradient."""
    return {
        key: torch.where(rows.reshape(-1, *[1] * (value.ndim - 1)), there[key], value) for key, value in here.items()
    }


def rows_of(state: State, rows: Sequence[int]) -> State:
    """The state of these rows, in this order; a row may be taken more than once."""
    return {key: value[list(rows)] for key, value in state.items()}


def side_by_side(states: Sequence[State]) -> State:
    """Rows of several states, one after another."""
    return {key: torch.cat([state[key] for state in states]) for key in states[0]}


def num_bytes(state: State) -> int:
    """Of all rows."""
    return sum(value.nbytes for value in state.values())


def to_bytes(state: State) -> dict[str, Tensor]:
    """A copy that shares nothing with the model's memory and lies on the CPU, as safetensors stores it."""
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}


def from_bytes(stored: Mapping[str, Tensor], like: State) -> State:
    """A stored state where `like` lies.

    Raises ValueError when it is of another memory: other parts, or other sizes of them.
    """
    if missing := sorted({*like} ^ {*stored}):
        raise ValueError(f"the stored memory and this model's differ in {missing[0]}: it was written by another model")
    for key, value in like.items():
        if stored[key].shape[1:] != value.shape[1:] or stored[key].dtype != value.dtype:
            raise ValueError(
                f"the stored memory has {key} of {stored[key].dtype} {tuple(stored[key].shape[1:])} where this model's "
                f"has {value.dtype} {tuple(value.shape[1:])}: it was written by another model"
            )
    return {key: stored[key].to(value.device) for key, value in like.items()}
