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

MOMENTS = ("exp_avg", "exp_avg_sq")
AVERAGE = "ema"


class NamedState:
    """Access by name to what one engine trains. Every method is collective: call it on all ranks."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._zero = engine.zero_optimization_stage()
        self._inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
        self._plain_masters = self._find_plain_masters() if self._zero == 0 else {}

    def initialise(self, step: int, with_average: bool) -> None:
        """Creates empty optimizer state at `step` optimizer steps, before anything is set or trained."""
        for master in self._masters():
            state = {"step": torch.tensor(float(step)), **{key: torch.zeros_like(master) for key in MOMENTS}}
            if with_average:
                state[AVERAGE] = master.detach().clone()
            self._inner.state[master] = state
        if self._zero in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def update_average(self, decay: float) -> None:
        """Moves the average towards the weights, on each rank for the shard that it owns."""
        for master in self._masters():
            self._inner.state[master][AVERAGE].lerp_(master.detach(), 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """Full fp32 weights of every parameter, frozen ones too, on CPU."""
        return {name: self._get(parameter, None) for name, parameter in self._parameters()}

    def optimizer_state(self, keys: tuple[str, ...]) -> dict[str, Tensor]:
        """`NAME.KEY` -> full fp32 tensor on CPU, for every trained parameter."""
        return {
            f"{name}.{key}": self._get(parameter, key)
            for name, parameter in self._parameters()
            if parameter.requires_grad
            for key in keys
        }

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Sets the fp32 master weights (the engine was built from the same values, perhaps rounded to bf16)."""
        for name, parameter in self._parameters():
            if parameter.requires_grad:
                self._set(parameter, weights[name], None)

    def set_optimizer_state(self, state: Mapping[str, Tensor], keys: tuple[str, ...]) -> list[str]:
        """Sets what `state` has for the trained parameters; returns the names that it does not have."""
        missing = []
        for name, parameter in self._parameters():
            if not parameter.requires_grad:
                continue
            for key in keys:
                value = state.get(f"{name}.{key}")
                if value is None or value.shape != self._shape(parameter):
                    missing.append(f"{name}.{key}")
                else:
                    self._set(parameter, value, key)
        return missing

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self._engine.module.named_parameters())

    def _shape(self, parameter: nn.Parameter) -> torch.Size:
        return torch.Size(getattr(parameter, "ds_shape", parameter.shape))

    def _masters(self) -> list[Tensor]:
        """The fp32 tensors that the inner optimizer updates on this rank."""
        if self._zero == 3:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        if self._zero in (1, 2):
            return list(self._engine.optimizer.single_partition_of_fp32_groups)
        return list(self._plain_masters.values())

    def _find_plain_masters(self) -> dict[int, Tensor]:
        """ZeRO 0: parameter id -> its fp32 master, which is the parameter itself in fp32."""
        optimizer = self._engine.optimizer
        if not hasattr(optimizer, "fp32_groups"):
            return {id(p): p for group in optimizer.param_groups for p in group["params"]}
        pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        return {id(low): high for lows, highs in pairs for low, high in zip(lows, highs, strict=True)}

    def _get(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        if not parameter.requires_grad:
            with GatheredParameters([parameter], enabled=self._zero == 3):
                return parameter.detach().float().cpu().clone()
        if self._zero == 0:
            master = self._plain_masters[id(parameter)]
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
            master = self._plain_masters[id(parameter)]
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
