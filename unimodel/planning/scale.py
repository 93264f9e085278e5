"""The same work per device on more devices: what communication and failures leave of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from unimodel.config import RunConfig
from unimodel.planning.batch_shape import BatchShape
from unimodel.planning.plan import Planner, RunPlan
from unimodel.vocabulary import Vocabulary

MOST_DEVICES = 4096
HOURS_BETWEEN_FAILURES = 50_000
"""Of one device: 419 interruptions in 54 days on 16,384 GPUs (Llama 3, arXiv 2407.21783, section 3.3.4)."""
STORAGE_BYTES_PER_SECOND = 2e9
"""What one node writes, to disk or to object storage."""
RESTART_SECONDS = 300.0
"""From a failure to the first new step: noticing, queueing, loading, building."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """One line of the table: figures of the run's last stage."""

    devices: int
    rows: int
    step_seconds: float
    tokens_per_second: float
    mfu: float | None
    communication_share: float
    """Of a step, what computation waits for."""
    checkpoint_minutes: float
    """Between two checkpoints, for the least loss (Daly 2006)."""
    goodput: float
    """Share of the time that is left for steps after saving, lost steps and restarts."""


def scaled(plan: RunPlan, config: RunConfig, vocabulary: Vocabulary, shape: BatchShape) -> Iterator[Scaled]:
    """Of the last stage in the layout of `plan`, for doubling numbers of devices with as many rows to each."""
    stage_plan = plan.stages[-1]
    name, stage = config.ordered_stages[-1]
    layout, devices = stage_plan.layout, plan.cluster.num_devices
    rows_each = stage.batch.rows / devices
    while devices <= MOST_DEVICES:
        cluster = replace(plan.cluster, num_devices=devices)
        rows = round(rows_each * devices)
        batch = stage.batch.model_copy(update={"rows": rows, "accumulation": layout.accumulation})
        larger = config.model_copy(update={"stages": {name: stage.model_copy(update={"batch": batch})}})
        planner = Planner(larger, cluster, vocabulary, {name: shape})
        one = planner.stage_in(replace(layout, ranks=devices))
        seconds = one.time.total
        writing = one.checkpoint_bytes / cluster.num_nodes / STORAGE_BYTES_PER_SECOND
        minutes, goodput = _goodput(one.stall_seconds(cluster), writing, devices)
        yield Scaled(
            devices=devices,
            rows=rows,
            step_seconds=seconds,
            tokens_per_second=one.tokens / seconds,
            mfu=one.mfu(cluster),
            communication_share=one.time.exposed / seconds,
            checkpoint_minutes=minutes,
            goodput=goodput,
        )
        devices *= 2


def _goodput(stall: float, writing: float, devices: int) -> tuple[float, float]:
    """Minutes between checkpoints, and the share of time that goes into steps that last."""
    failure = HOURS_BETWEEN_FAILURES * 3600 / devices
    interval = max(math.sqrt(2 * max(stall, 0.1) * failure), 2 * writing)
    lost = stall / interval + (interval / 2 + RESTART_SECONDS) / failure
    return interval / 60, max(0.0, 1 - lost)
