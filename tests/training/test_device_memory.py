"""A full GPU: what it was full of, and which settings need less.

Run: pytest tests/training/test_device_memory.py
"""

from __future__ import annotations

import pytest
import torch

from unimodel.config import BatchConfig, EngineConfig
from unimodel.training.device_memory import (
    COPY,
    PASSES,
    STATES,
    UPDATE,
    DeviceFullError,
    device_full,
    memory_for,
    smaller_settings,
)

BATCH = BatchConfig(rows=48, accumulation=2)
TORCH_SAYS = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB of which ..."
EVERYTHING = EngineConfig(
    zero=3,
    activation_checkpointing=True,
    activation_offload=True,
    offload_optimizer="cpu",
    offload_parameters="cpu",
)


def test_what_the_memory_was_for_is_told() -> None:
    with pytest.raises(DeviceFullError, match=r"^CUDA out of memory. Tried to allocate 2.00 GiB$") as caught:
        with memory_for(UPDATE), memory_for(PASSES):
            raise torch.OutOfMemoryError(TORCH_SAYS)
    assert caught.value.part == PASSES, "the innermost"


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="^something else$"), memory_for(PASSES):
        raise RuntimeError("something else")


def test_passes_get_smaller_by_fewer_rows_first() -> None:
    """48 rows on 8 ranks in 2 parts are 3 at a time: the next that divides is 1 at a time, in 6 parts."""
    assert smaller_settings(PASSES, "masked", BATCH, EngineConfig(zero=1), num_ranks=8) == [
        "stages.masked.batch.accumulation=6",
        "engine.activation_checkpointing=true",
        "engine.zero=2",
        "engine.zero=3",
        "engine.activation_offload=true",
        "engine.offload_optimizer=cpu",
        "engine.offload_parameters=cpu",
    ]


def test_ranks_that_share_rows_have_more_of_them() -> None:
    settings = smaller_settings(PASSES, "masked", BATCH, EngineConfig(sequence_parallel=4), num_ranks=8)
    assert settings[0] == "stages.masked.batch.accumulation=4", "12 rows at a time, then 6"


@pytest.mark.parametrize("part", [STATES, UPDATE, COPY])
def test_states_get_smaller_by_dividing_and_offloading_them(part: str) -> None:
    more = ["engine.offload_optimizer=cpu", "engine.offload_parameters=cpu"]
    assert smaller_settings(part, "masked", BATCH, EngineConfig(zero=2), num_ranks=8) == ["engine.zero=3", *more]
    assert smaller_settings(part, "masked", BATCH, EngineConfig(), num_ranks=1) == ["engine.zero=3", *more]


@pytest.mark.parametrize("part", [STATES, PASSES])
@pytest.mark.parametrize("zero", [0, 1, 3])
def test_every_advice_is_a_config_that_is_accepted(part: str, zero: int) -> None:
    """Each setting with those before it."""
    values: dict[str, object] = {"zero": zero}
    for setting in smaller_settings(part, "masked", BATCH, EngineConfig(zero=zero), num_ranks=2):
        key, value = setting.split("=")
        if key.startswith("engine."):
            values[key.removeprefix("engine.")] = {"true": True}.get(value, int(value) if value.isdigit() else value)
            EngineConfig.model_validate(values)


def test_the_message_names_part_stage_and_settings() -> None:
    full = DeviceFullError(UPDATE, "Tried to allocate 2.00 GiB")
    assert device_full(full, "masked", BATCH, EngineConfig(zero=3, offload_optimizer="cpu"), 8) == (
        "out of GPU memory in stage masked, for the optimizer's update (Tried to allocate 2.00 GiB); try in this "
        "order, each with those before it: --set engine.offload_parameters=cpu"
    )
    hopeless = device_full(full, "masked", BatchConfig(rows=8), EVERYTHING, 8)
    assert hopeless.endswith("take more GPUs (for long rows with engine.sequence_parallel) or a smaller model")
