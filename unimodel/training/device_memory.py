"""A GPU that is full: which part of training filled it, and which settings need less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unimodel.config import BatchConfig, EngineConfig
from unimodel.errors import RunError

STATES = "weights, gradients and optimizer state"
PASSES = "forward and backward"
UPDATE = "the optimizer's update"
COPY = "the copy for a checkpoint"


class DeviceFullError(RunError):
    """The device has no memory left for `part` of the training; what torch says of it is the message."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


@contextmanager
def memory_for(part: str) -> Iterator[None]:
    """Tells what the memory was for that could not be had: raises DeviceFullError for torch's OutOfMemoryError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceFullError(part, str(error).split(". GPU")[0]) from error


def device_full(error: DeviceFullError, stage: str, batch: BatchConfig, engine: EngineConfig, num_ranks: int) -> str:
    """The message for the user: what did not fit, and the nearest settings that need less, mildest first."""
    settings = smaller_settings(error.part, stage, batch, engine, num_ranks)
    remedy = "try in this order, each with those before it: " + ", ".join(f"--set {setting}" for setting in settings)
    if not settings:
        remedy = (
            "every setting that saves memory is on: take more GPUs (for long rows with engine.sequence_parallel) or a "
            "smaller model"
        )
    return f"out of GPU memory in stage {stage}, for {error.part} ({error}); {remedy}"


def smaller_settings(part: str, stage: str, batch: BatchConfig, engine: EngineConfig, num_ranks: int) -> list[str]:
    """Settings, each `key=value`, that leave what is learnt as it is and need less memory for `part`."""
    settings = []
    micro_rows = batch.micro_rows(num_ranks // engine.sequence_parallel)
    if part == PASSES:
        if micro_rows > 1:
            factor = next(n for n in range(2, micro_rows + 1) if micro_rows % n == 0)
            settings.append(f"stages.{stage}.batch.accumulation={batch.accumulation * factor}")
        if not engine.activation_checkpointing:
            settings.append("engine.activation_checkpointing=true")
    if engine.zero < 3:  # alone it divides nothing, but parameters are offloaded from 3 only
        settings += [f"engine.zero={zero}" for zero in (range(engine.zero + 1, 4) if num_ranks > 1 else (3,))]
    if part == PASSES and not engine.activation_offload:
        settings.append("engine.activation_offload=true")
    if engine.offload_optimizer == "none":
        settings.append("engine.offload_optimizer=cpu")
    if engine.offload_parameters == "none":
        settings.append("engine.offload_parameters=cpu")
    return settings
