"""Settings of what a run does about its troubles, and of what it keeps in case of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from data_pipelines.settings import PositiveFloat, Settings


class FaultConfig(Settings):
    """What a run does about its own troubles."""

    hang_seconds: PositiveFloat | None = 1800.0
    """Longest step: a rank that takes longer is killed by its watchdog, and `unimodel launch` starts all again. None
    watches nothing. Collectives have a limit of their own (engine.communication_minutes)."""
    pause_seconds: PositiveFloat = 3600.0
    """The same for what is no step: building a stage, the first step, the last save."""
    max_skips: PositiveInt = 3
    """Steps in a row that may be skipped because their loss or gradient is not finite, or a spike; at so many the run
    goes back to its last checkpoint and leaves out the data since."""
    max_roll_backs: Annotated[int, Field(ge=0)] = 3
    """In one stage; then the run stops."""
    spike_score: PositiveFloat | None = None
    """Robust z-score, over the last steps, from which on a loss is a spike. None skips only what is not finite."""
    spike_window_steps: PositiveInt = 64


class CheckpointConfig(Settings):
    every_steps: PositiveInt = 200
    keep_last: PositiveInt = 2
    """Checkpoints of the running stage to keep; the last one of every stage always stays."""
    keep_every_steps: PositiveInt | None = None
    """Also keep those at multiples of so many steps of the run."""
    upload: str | None = None
    """Address that every checkpoint is copied to in the background (s3://bucket/run). A run whose own folder has none
    as new goes on from there."""
