"""What a run tells of itself beyond its metrics: trackers, a profile, reports and checks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from data_pipelines.settings import PositiveFloat, Settings


class ProfileConfig(Settings):
    """A window of torch's profiler."""

    first_step: PositiveInt
    """Of the run, counted from 1. The first steps of a stage warm up; take a later one."""
    steps: Annotated[int, Field(gt=0, le=50)] = 3
    """Its trace takes tens of megabytes a step."""
    ranks: Literal["main", "all"] = "main"


class ObserveConfig(Settings):
    """Nothing here changes a weight or a loss: all of it may differ when a run goes on."""

    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Also send the figures of every step there (`pip install 'unimodel[track]'`)."""
    wandb_project: str = "unimodel"
    peak_tflops: PositiveFloat | None = None
    """Peak of one device for the MFU, 10^12 operations per second. None takes it from the data sheet of a known GPU."""
    profile: ProfileConfig | None = None
    ranks_every_steps: PositiveInt = 50
    """Steps per line of ranks.jsonl: how long each rank takes by itself."""
    gradient_norms_every_steps: PositiveInt | None = None
    """Also write how strongly each modality's loss pulls: `gradient_norm/<modality>` in metrics.jsonl."""
    check_replicas_every_steps: PositiveInt | None = None
    """Compare the weights that all ranks hold, bit for bit, then and before every save. Under ZeRO 3 there are none."""
    check_modules: bool = False
    """To find a bug: after every forward pass ranks compare which trainable modules they ran. Slow."""
