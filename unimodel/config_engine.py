"""Settings of the engine: how a model is spread over devices."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from data_pipelines.settings import PositiveFloat, Settings


class EngineConfig(Settings):
    """DeepSpeed."""

    zero: Annotated[int, Field(ge=0, le=3)] = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = False
    sequence_parallel: PositiveInt = 1
    """Ranks that share their rows: each runs its part of the length, and in attention its part of the heads (Ulysses,
    arXiv 2309.14509). Neighbours in rank, so keep it within a node."""
    communication_minutes: PositiveFloat = 10.0
    """Time limit of one collective."""
