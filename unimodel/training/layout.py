"""Where each parameter lies in the fp32 tensors that the inner optimizer updates, for every ZeRO stage.

ZeRO 0 updates the parameters (or their fp32 copies) themselves; 1 and 2 flatten a parameter group and cut the result by
rank; 3 cuts every parameter by rank and lines the cuts up. This is the only place that knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Piece:
    """What this rank holds of one parameter: `numel` elements (perhaps 0) from element `start` of the flat parameter,
    at element `offset` of its master."""

    shape: torch.Size
    start: int
    offset: int
    numel: int


@dataclass(frozen=True, slots=True)
class Master:
    """One fp32 tensor that the inner optimizer updates on this rank, with the settings of its parameter group."""

    tensor: Tensor
    group: dict[str, Any]
    parameters: tuple[nn.Parameter, ...]
    pieces: tuple[Piece, ...]
    """One per parameter, the same shapes in the same order on all ranks."""
    stored_by: Any = None
    """The ZeRO optimizer that keeps it and its state in a file, where one does, ..."""
    number: int = 0
    """... under this number."""

    @contextmanager
    def loaded(self, *, changes: bool) -> Iterator[None]:
        """Has it and its state in memory for as long as this is open; what `changes` is written back."""
        if self.stored_by is None:
            yield
            return
        self.stored_by._optimizer_states_and_gradient_swap_in(self.number)
        yield
        if changes:
            self.stored_by._optimizer_states_and_gradient_swap_out(self.number)
        else:
            self.stored_by._release_swap_buffers(self.number)


def masters(engine: Any) -> list[Master]:
    """Every master of an engine, in the same order on all ranks."""
    optimizer = engine.optimizer
    match engine.zero_optimization_stage():
        case 0:
            return [_whole(*found) for found in _unsharded(optimizer)]
        case 1 | 2:
            flat = zip(
                optimizer.single_partition_of_fp32_groups, optimizer.param_groups, optimizer.bit16_groups, strict=True
            )
            return [
                _master(tensor, group, parameters, map(_linked_piece, parameters)) for tensor, group, parameters in flat
            ]
        case _:
            groups = [optimizer.param_groups[i] for i in _group_numbers(optimizer)]
            flat = zip(optimizer.fp32_partitioned_groups_flat, groups, optimizer.fp16_groups, strict=True)
            return [
                Master(
                    tensor,
                    group,
                    tuple(parameters),
                    tuple(_cut_piece(optimizer, p) for p in parameters),
                    optimizer if optimizer._swappable_optimizer_subgroup(number) else None,
                    number,
                )
                for number, (tensor, group, parameters) in enumerate(flat)
            ]


def _master(
    tensor: Tensor, group: dict[str, Any], parameters: Iterable[nn.Parameter], pieces: Iterable[Piece]
) -> Master:
    return Master(tensor, group, tuple(parameters), tuple(pieces))


def _unsharded(optimizer: Any) -> list[tuple[Tensor, dict[str, Any], nn.Parameter]]:
    """ZeRO 0: the parameters themselves in fp32, their fp32 copies in bf16."""
    if not hasattr(optimizer, "fp32_groups"):
        return [(p, group, p) for group in optimizer.param_groups for p in group["params"]]
    groups = zip(optimizer.fp32_groups, optimizer.param_groups, optimizer.fp16_groups, strict=True)
    return [(high, group, low) for highs, group, lows in groups for high, low in zip(highs, lows, strict=True)]


def _whole(tensor: Tensor, group: dict[str, Any], parameter: nn.Parameter) -> Master:
    return Master(tensor, group, (parameter,), (Piece(tensor.shape, 0, 0, tensor.numel()),))


def _linked_piece(parameter: Any) -> Piece:
    """ZeRO 1 and 2 link every parameter of which this rank holds something to its place."""
    if parameter._hp_mapping is None:
        return Piece(parameter.shape, 0, 0, 0)
    here, there = parameter._hp_mapping.lp_fragment_address, parameter._hp_mapping.hp_fragment_address
    return Piece(parameter.shape, here.start, there.start, here.numel)


def _cut_piece(optimizer: Any, parameter: Any) -> Piece:
    """ZeRO 3 cuts into equal parts; the last ranks' are padded."""
    size = parameter.partition_numel()
    start = min(optimizer._get_param_partition_rank(parameter) * size, parameter.ds_numel)
    offset = optimizer.grad_position[optimizer.get_param_id(parameter)][1]
    return Piece(torch.Size(parameter.ds_shape), start, offset, min(size, parameter.ds_numel - start))


def _group_numbers(optimizer: Any) -> list[int]:
    """ZeRO 3 splits large parameter groups; the group that each part came from."""
    parts = len(optimizer.fp32_partitioned_groups_flat)
    return [optimizer.sub_group_to_group_id[part] for part in range(parts)]
