"""A run's state by parameter name, free of any ZeRO layout.

DeepSpeed's own checkpoint files fit one world size and one ZeRO stage, and loading them after a parameter was frozen or
added fails or silently keeps initial values. fp32 tensors by name fit all of them: each rank gives the elements that it
holds, and takes those that it needs, wherever they were. The moving average of the weights lies in the optimizer's
state, sharded like Adam's moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unimodel.training.layout import Master, Piece, masters
from unimodel.training.muon import Muon
from unimodel.training.stored_state import AVERAGE, WEIGHT, Held, StoredState

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of Adam; hidden matrices under Muon have the first only."""


class NamedState:
    """Access by name to what one engine trains. `frozen` are the fp32 weights that it does not: the engine may keep
    them rounded."""

    def __init__(self, engine: Any, frozen: Mapping[str, Tensor]) -> None:
        self._engine = engine
        self._inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
        self._masters = masters(engine)
        self._names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
        self._held_here = _dealt(self._masters, sharded=engine.zero_optimization_stage() > 0)
        self._frozen = {name: frozen[name] for name in list(frozen)[dist.get_rank() :: dist.get_world_size()]}
        self._host: dict[tuple[int, str], Tensor] = {}
        if isinstance(self._inner, Muon) and engine.zero_optimization_stage() > 0:
            self._inner.pieces = {master.tensor: master.pieces for master in self._masters}

    def initialise(self, step: int, with_average: bool) -> None:
        """Creates empty optimizer state at `step` optimizer steps, before anything is set or trained."""
        for master in self._masters:
            with master.loaded(changes=True):
                state = {"step": torch.tensor(float(step))}
                state |= {key: torch.zeros_like(master.tensor) for key in _moments(master)}
                if with_average:
                    state[AVERAGE] = master.tensor.detach().clone()
                self._inner.state[master.tensor] = state
        if self._engine.zero_optimization_stage() in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def update_average(self, decay: float) -> None:
        """Moves the average towards the weights, on each rank for the shard that it owns."""
        for master in self._masters:
            with master.loaded(changes=True):
                self._inner.state[master.tensor][AVERAGE].lerp_(master.tensor.detach(), 1 - decay)

    def held(self) -> list[Held]:
        """A copy in host memory of all that this rank holds, whole over all ranks; it lasts until the next call."""
        held = [Held(WEIGHT, name, tuple(value.shape), 0, value.flatten()) for name, value in self._frozen.items()]
        for number in self._held_here:
            master = self._masters[number]
            kinds = [
                k for k in (WEIGHT, *_moments(master), AVERAGE) if k in (WEIGHT, *self._inner.state[master.tensor])
            ]
            with master.loaded(changes=False):
                copies = {kind: self._copied((number, kind), self._tensor(master, kind)) for kind in kinds}
            held += [
                Held(kind, self._names[id(parameter)], tuple(piece.shape), piece.start, _part(copies[kind], piece))
                for kind in kinds
                for parameter, piece in zip(master.parameters, master.pieces, strict=True)
                if piece.numel
            ]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return held

    def _copied(self, key: tuple[int, str], tensor: Tensor) -> Tensor:
        """Into memory that is kept: fresh pages cost more than the copy, and a GPU copies fast to pinned ones only."""
        if key not in self._host:
            self._host[key] = torch.empty(tensor.numel(), dtype=torch.float32, pin_memory=tensor.is_cuda)
        return self._host[key].copy_(tensor.detach().flatten(), non_blocking=True)

    def set_weights(self, state: StoredState, *, averaged: bool = False) -> None:
        """Sets the fp32 master weights that are stored, or their moving average where there is one (the engine was
        built from the same values, perhaps rounded to bf16); parameters that were added keep theirs."""
        for name, master, piece in self._pieces():
            kind = AVERAGE if averaged and state.has(AVERAGE, name, piece.shape) else WEIGHT
            if state.has(kind, name, piece.shape):
                self._set(master, WEIGHT, piece, state.piece(kind, name, piece.start, piece.numel))

    def set_average(self, state: StoredState, kind: str) -> None:
        """Sets the moving average from the stored one, or starts it from the stored weights."""
        for name, master, piece in self._pieces():
            if state.has(kind, name, piece.shape):
                self._set(master, AVERAGE, piece, state.piece(kind, name, piece.start, piece.numel))

    def set_moments(self, state: StoredState) -> list[str]:
        """Sets the moments that are stored; returns the names of those that are not. Equal on all ranks.

        A parameter gets all of its moments or none: Adam's first over an empty second one would be a leap.
        """
        missing = []
        for name, master, piece in self._pieces():
            absent = [f"{name}.{kind}" for kind in _moments(master) if not state.has(kind, name, piece.shape)]
            missing += absent
            if not absent:
                for kind in _moments(master):
                    self._set(master, kind, piece, state.piece(kind, name, piece.start, piece.numel))
        return missing

    def _pieces(self) -> Iterator[tuple[str, Master, Piece]]:
        """Name, master and piece of everything; a master may be changed while it is at hand."""
        for master in self._masters:
            with master.loaded(changes=True):
                for parameter, piece in zip(master.parameters, master.pieces, strict=True):
                    yield self._names[id(parameter)], master, piece

    def _tensor(self, master: Master, kind: str) -> Tensor:
        return master.tensor if kind == WEIGHT else self._inner.state[master.tensor][kind]

    def _set(self, master: Master, kind: str, piece: Piece, values: Tensor) -> None:
        _part(self._tensor(master, kind).detach().view(-1), piece).copy_(values)


def _part(flat: Tensor, piece: Piece) -> Tensor:
    return flat[piece.offset : piece.offset + piece.numel]


def _dealt(held: Sequence[Master], sharded: bool) -> list[int]:
    """The masters that this rank saves: all of its shards, or its share of those that every rank has whole."""
    if sharded:
        return list(range(len(held)))
    loads = [0] * dist.get_world_size()
    mine = []
    for number in sorted(range(len(held)), key=lambda i: -held[i].tensor.numel()):
        rank = loads.index(min(loads))
        loads[rank] += held[number].tensor.numel()
        if rank == dist.get_rank():
            mine.append(number)
    return sorted(mine)


def _moments(master: Master) -> tuple[str, ...]:
    return MOMENTS[:1] if master.group.get("orthogonal") else MOMENTS
