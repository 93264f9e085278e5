"""Weights and optimizer state by parameter name, free of any ZeRO layout.

DeepSpeed's own checkpoint files fit one world size and one ZeRO stage, and loading them after a parameter was frozen or
added fails or silently keeps initial values. Full fp32 tensors by name fit all of them. The moving average of the
weights lives in the optimizer's state too, so it is sharded, gathered and restored exactly like Adam's moments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from deepspeed.runtime.zero import GatheredParameters
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from unimodel.training.layout import Master, masters
from unimodel.training.muon import Muon

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of Adam; hidden matrices under Muon have the first only."""
AVERAGE = "ema"


class NamedState:
    """Access by name to what one engine trains. Every method is collective: call it on all ranks."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._zero = engine.zero_optimization_stage()
        self._inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
        self._masters = masters(engine)
        self._master_of = {id(parameter): master for master in self._masters for parameter in master.parameters}
        if isinstance(self._inner, Muon) and self._zero > 0:
            self._inner.pieces = {master.tensor: master.pieces for master in self._masters}

    def initialise(self, step: int, with_average: bool) -> None:
        """Creates empty optimizer state at `step` optimizer steps, before anything is set or trained."""
        for master in self._masters:
            state = {"step": torch.tensor(float(step))}
            state |= {key: torch.zeros_like(master.tensor) for key in _moments(master)}
            if with_average:
                state[AVERAGE] = master.tensor.detach().clone()
            self._inner.state[master.tensor] = state
        if self._zero in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def update_average(self, decay: float) -> None:
        """Moves the average towards the weights, on each rank for the shard that it owns."""
        for master in self._masters:
            self._inner.state[master.tensor][AVERAGE].lerp_(master.tensor.detach(), 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """Full fp32 weights of every parameter, frozen ones too, on CPU."""
        return {name: self._get(parameter, None) for name, parameter in self._parameters()}

    def optimizer_state(self, keys: tuple[str, ...]) -> dict[str, Tensor]:
        """`NAME.KEY` -> full fp32 tensor on CPU, for every trained parameter and those of `keys` that it has."""
        return {
            f"{name}.{key}": self._get(parameter, key)
            for name, parameter in self._parameters()
            if parameter.requires_grad
            for key in self._keys(parameter, keys)
        }

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Sets the fp32 master weights (the engine was built from the same values, perhaps rounded to bf16)."""
        for name, parameter in self._parameters():
            if parameter.requires_grad:
                self._set(parameter, weights[name], None)

    def set_optimizer_state(self, state: Mapping[str, Tensor], keys: tuple[str, ...]) -> list[str]:
        """Sets what `state` has for the trained parameters; returns the names that it does not have.

        A parameter gets all of its `keys` or none: Adam's first moment over an empty second one would be a leap.
        """
        missing = []
        for name, parameter in self._parameters():
            if not parameter.requires_grad:
                continue
            needed = self._keys(parameter, keys)
            values = {key: state[f"{name}.{key}"] for key in needed if f"{name}.{key}" in state}
            fitting = {key: value for key, value in values.items() if value.shape == self._shape(parameter)}
            missing += [f"{name}.{key}" for key in needed if key not in fitting]
            if len(fitting) == len(needed):
                for key, value in fitting.items():
                    self._set(parameter, value, key)
        return missing

    def _keys(self, parameter: nn.Parameter, keys: tuple[str, ...]) -> tuple[str, ...]:
        master = self._master_of[id(parameter)]
        return tuple(key for key in keys if key not in MOMENTS or key in _moments(master))

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self._engine.module.named_parameters())

    def _shape(self, parameter: nn.Parameter) -> torch.Size:
        return torch.Size(getattr(parameter, "ds_shape", parameter.shape))

    def _get(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        if not parameter.requires_grad:
            with GatheredParameters([parameter], enabled=self._zero == 3):
                return parameter.detach().float().cpu().clone()
        if self._zero == 0:
            master = self._master_of[id(parameter)].tensor
            value = master if key is None else self._inner.state[master][key]
        else:
            value = (
                safe_get_full_fp32_param(parameter) if key is None else safe_get_full_optimizer_state(parameter, key)
            )
        assert value is not None, (key, self._zero)
        return value.detach().float().cpu().clone().reshape(self._shape(parameter))

    def _set(self, parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
        value = value.to(parameter.device, torch.float32)
        if self._zero == 0:
            master = self._master_of[id(parameter)].tensor
            (master.data if key is None else self._inner.state[master][key]).copy_(value)
        elif self._zero in (1, 2):
            if key is None:
                safe_set_full_fp32_param(parameter, value)
            else:
                safe_set_full_optimizer_state(parameter, value, key)
        else:
            # The full-tensor setter of ZeRO 3 overruns when the last rank's shard is padded; shards are cut here.
            shard = self._shard(parameter, value)
            if key is None:
                safe_set_local_fp32_param(parameter, shard)
            else:
                safe_set_local_optimizer_state(parameter, shard, key)

    def _shard(self, parameter: Any, value: Tensor) -> Tensor:
        size = parameter.ds_tensor.numel()
        rank = self._engine.optimizer._get_param_partition_rank(parameter)
        padded = value.new_zeros(size)
        piece = value.flatten()[rank * size : (rank + 1) * size]
        padded[: len(piece)] = piece
        return padded


def _moments(master: Master) -> tuple[str, ...]:
    return MOMENTS[:1] if master.group.get("orthogonal") else MOMENTS
