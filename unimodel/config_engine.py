"""Settings of the engine: how a model is spread over devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from data_pipelines.settings import PositiveFloat, Settings

REFUSED = {
    "tensor_parallel": "checkpoints by name cannot hold matrices that are split by columns, and Muon needs whole ones; "
    "zero: 3 divides the weights too, and sequence_parallel the work of long rows",
    "expert_parallel": "no backbone family has experts",
    "pipeline_parallel": "DeepSpeed's pipeline wants a model of its own layers, and this one is a stock decoder",
}
"""What other frameworks offer, and why this one does not (docs/decisions/0014-parallelism.md)."""

BUCKET_ELEMENTS = 500_000_000
"""Gradients reduced at once, at most: ZeRO reserves memory for a bucket and never gives it back, so a smaller model has
one of its own size."""


class EngineConfig(Settings):
    """DeepSpeed. None of it changes what a run learns (docs/decisions/0014-parallelism.md): only where things lie, and
    in the two precisions how they are rounded."""

    zero: Annotated[int, Field(ge=0, le=3)] = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Of products of fp32 matrices, as torch calls it: TF32 on a GPU from `high` on, bf16 with fp32 sums on a CPU that
    has such instructions (AMX) under `medium`; elsewhere fp32. Everything between products stays fp32."""
    activation_checkpointing: bool = False
    activation_offload: bool = False
    """Keep what activation checkpointing saves, a layer's input each, in host memory instead of the GPU's."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where fp32 weights and moments lie; they are updated by the CPU. Needs ZeRO 1 to 3, nvme ZeRO 3. A moving average
    lies there too, so that nvme reads and writes everything twice a step (optimizer.ema_decay: 0 spares that)."""
    nvme_folder: Path | None = None
    """For nvme: a folder on a fast disk of each node, of this run alone."""
    offload_parameters: Literal["none", "cpu"] = "none"
    """Where weights lie that no layer is using; needs ZeRO 3."""
    sequence_parallel: PositiveInt = 1
    """Ranks that share their rows: each runs its part of the length, and in attention its part of the heads (Ulysses,
    arXiv 2309.14509). Neighbours in rank, so keep it within a node."""
    hierarchical_ranks: PositiveInt = 1
    """Under ZeRO 3, ranks of a node that hold all weights among them a second time, so that backward gathers within
    the node (hpZ, arXiv 2306.10209); 1 does not."""
    communication_minutes: PositiveFloat = 10.0
    """Time limit of one collective."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, values: Any) -> Any:
        for name in REFUSED.keys() & set(values if isinstance(values, dict) else ()):
            raise ValueError(f"{name} is not offered: {REFUSED[name]}")
        return values

    @model_validator(mode="after")
    def _settings_fit(self) -> EngineConfig:
        if self.offload_optimizer != "none" and self.zero == 0:
            raise ValueError(
                f"offload_optimizer ({self.offload_optimizer}) moves what ZeRO holds: set zero to 1, 2 or 3"
            )
        nvme = self.offload_optimizer == "nvme"
        if nvme and self.zero != 3:
            raise ValueError("offload_optimizer (nvme) needs ZeRO 3: set zero to 3")
        if nvme != (self.nvme_folder is not None):
            raise ValueError("offload_optimizer: nvme and nvme_folder go together: set both or neither")
        for name, off in (("offload_parameters", "none"), ("hierarchical_ranks", 1)):
            value = getattr(self, name)
            if value != off and self.zero != 3:
                raise ValueError(f"{name} ({value}) divides weights, which only ZeRO 3 does: set zero to 3")
        if self.activation_offload and not self.activation_checkpointing:
            raise ValueError("activation_offload keeps what activation_checkpointing saves: set that to true as well")
        return self
