"""`unimodel plan`: what a run will need and take on a cluster, before it costs anything.

for every way to lay the run out (ZeRO stage, checkpointing, sequence parallelism, rows of a micro-batch):
    trace one micro-batch on fake tensors
    add up memory, and seconds of computing, updating and communicating
and the fastest that fits is proposed beside the one that the config asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple, TypeVar

from unimodel.backbone.flops import decoder_flops
from unimodel.config import RunConfig, StageConfig
from unimodel.planning.batch_shape import BatchShape
from unimodel.planning.hardware import Cluster
from unimodel.planning.memory import Layout, Memory, checkpoint_bytes, memory_of
from unimodel.planning.step_time import StepTime, step_time
from unimodel.planning.trace import MicroBatch, Trace, trace_micro_batch
from unimodel.planning.update import Parameters, count_parameters, meta_backbone, micro_row_choices
from unimodel.vocabulary import Vocabulary

MAX_MICRO_TOKENS = 1 << 18
"""Larger micro-batches are not looked at: nothing gets faster."""
MAX_ACCUMULATION = 64
AS_FAST = 1.02
"""Nearer than this to the fastest, a plan is judged by its memory."""
SEQUENCE_PARTS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage in one layout."""

    name: str
    steps: int
    rows: int
    shape: BatchShape
    layout: Layout
    parameters: Parameters
    memory: Memory
    time: StepTime
    useful_flops: float
    """Of one step over all devices, counted as for the MFU of a run (`unimodel/backbone/flops.py`)."""

    @property
    def seconds(self) -> float:
        return self.steps * self.time.total

    @property
    def memory_bytes(self) -> int:
        return self.memory.total

    @property
    def parts(self) -> int:
        """Ranks that share a row."""
        return self.layout.sequence_parallel

    @property
    def tokens(self) -> float:
        """Of one step."""
        return self.rows * self.shape.tokens

    @property
    def samples_per_second(self) -> float:
        return self.rows * self.shape.samples / self.time.total

    @property
    def checkpoint_bytes(self) -> int:
        return checkpoint_bytes(self.parameters, averaging=self.layout.averaging)

    def mfu(self, cluster: Cluster) -> float | None:
        """None where the device's peak is not known."""
        peak = cluster.device.peak_flops.get(self.layout.precision)
        return None if peak is None else self.useful_flops / self.time.total / (peak * cluster.num_devices)

    def stall_seconds(self, cluster: Cluster) -> float:
        """How long training stands still for a checkpoint."""
        return self.checkpoint_bytes / cluster.num_devices / cluster.device.host_bytes_per_second


@dataclass(frozen=True, slots=True)
class RunPlan:
    """All stages under one set of engine settings."""

    cluster: Cluster
    stages: tuple[StagePlan, ...]

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def memory_bytes(self) -> int:
        return max(stage.memory.total for stage in self.stages)

    @property
    def parts(self) -> int:
        """Ranks that share a row."""
        return self.stages[0].parts

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.cluster.device.memory_bytes


class Spread(NamedTuple):
    """Engine settings that decide how a run is laid out."""

    zero: int
    checkpointing: bool
    parts: int
    """Ranks that share a row."""
    optimizer_on_host: bool
    parameters_on_host: bool
    activations_on_host: bool


Planned = TypeVar("Planned", StagePlan, RunPlan)


def _fast_and_small(plans: Sequence[Planned]) -> Planned:
    """The one with the fewest ranks to a row, then the least memory, of those that are as fast as the fastest."""
    limit = AS_FAST * min(plan.seconds for plan in plans)
    return min((plan for plan in plans if plan.seconds <= limit), key=lambda plan: (plan.parts, plan.memory_bytes))


class Planner:
    """Plans of one config on one cluster."""

    def __init__(
        self, config: RunConfig, cluster: Cluster, vocabulary: Vocabulary, shapes: Mapping[str, BatchShape]
    ) -> None:
        self.config, self.cluster, self.vocabulary, self.shapes = config, cluster, vocabulary, shapes
        self._traces: dict[tuple[str, MicroBatch], Trace] = {}
        self._backbones = {
            name: meta_backbone(config.backbone, vocabulary, stage) for name, stage in config.ordered_stages
        }
        self._parameters = {
            name: count_parameters(self._backbones[name], stage) for name, stage in config.ordered_stages
        }

    def as_configured(self) -> RunPlan:
        """Raises ValueError when the batch cannot be dealt to so many devices."""
        engine, ranks = self.config.engine, self.cluster.num_devices
        stages = []
        for name, stage in self.config.ordered_stages:
            if ranks % engine.sequence_parallel:
                raise ValueError(
                    f"engine.sequence_parallel ({engine.sequence_parallel}) must divide the number of devices ({ranks})"
                )
            micro_rows = stage.batch.micro_rows(ranks // engine.sequence_parallel)
            spread = Spread(
                engine.zero,
                engine.activation_checkpointing,
                engine.sequence_parallel,
                engine.offload_optimizer != "none",
                engine.offload_parameters != "none",
                engine.activation_offload,
            )
            layout = replace(self._layout(stage, spread, micro_rows), hierarchical_ranks=engine.hierarchical_ranks)
            stages.append(self._stage(name, stage, layout))
        return RunPlan(self.cluster, tuple(stages))

    def best(self) -> RunPlan | None:
        """The fastest that fits, or the simplest that is as fast. None when none fits."""
        fitting = [plan for plan in self._plans() if plan.fits]
        return _fast_and_small(fitting) if fitting else None

    def smallest(self) -> RunPlan | None:
        """The one that needs least memory. None when the rows cannot be dealt at all."""
        return min(self._plans(), key=lambda plan: plan.memory_bytes, default=None)

    def stage_in(self, layout: Layout) -> StagePlan:
        """The last stage in a layout of the caller's."""
        name, stage = self.config.ordered_stages[-1]
        return self._stage(name, stage, layout)

    def _plans(self) -> Iterator[RunPlan]:
        """Those that keep all on the devices; where none of them fits, those that use the host's memory too."""
        found = list(self._spread_over((False,)))
        if not any(plan.fits for plan in found):
            found += self._spread_over((True,))
        yield from found

    def _spread_over(self, offloading: tuple[bool, ...]) -> Iterator[RunPlan]:
        for zero, checkpointing, parts, offload in product(range(4), (False, True), SEQUENCE_PARTS, offloading):
            if self.cluster.num_devices % parts or self.config.backbone.num_heads % parts or (offload and not zero):
                continue
            yield from self._with_engine(Spread(zero, checkpointing, parts, offload, False, False))
            if offload and zero == 3:
                yield from self._with_engine(Spread(zero, checkpointing, parts, offload, True, checkpointing))

    def _with_engine(self, spread: Spread) -> Iterator[RunPlan]:
        """At most one plan: engine settings are the run's, and every stage takes its best micro-batch."""
        stages = []
        for name, stage in self.config.ordered_stages:
            if stage.batch.row_tokens % spread.parts:
                return
            found = list(self._micro_batches(name, stage, spread))
            fitting = [one for one in found if one.memory.total <= self.cluster.device.memory_bytes]
            if not found:
                return
            stages.append(_fast_and_small(fitting) if fitting else min(found, key=lambda one: one.memory.total))
        yield RunPlan(self.cluster, tuple(stages))

    def _micro_batches(self, name: str, stage: StageConfig, spread: Spread) -> Iterator[StagePlan]:
        data_ranks = self.cluster.num_devices // spread.parts
        for micro_rows in micro_row_choices(stage.batch.rows, data_ranks):
            accumulation = stage.batch.rows // data_ranks // micro_rows
            small = micro_rows * stage.batch.row_tokens <= MAX_MICRO_TOKENS
            if (small or micro_rows == 1) and accumulation <= MAX_ACCUMULATION:
                yield self._stage(name, stage, self._layout(stage, spread, micro_rows))

    def _layout(self, stage: StageConfig, spread: Spread, micro_rows: int) -> Layout:
        ranks = self.cluster.num_devices
        return Layout(
            zero=spread.zero,
            precision=self.config.engine.precision,
            micro_rows=micro_rows,
            accumulation=stage.batch.rows * spread.parts // (ranks * micro_rows),
            checkpointing=spread.checkpointing,
            sequence_parallel=spread.parts,
            ranks=ranks,
            averaging=stage.optimizer.ema_decay > 0,
            optimizer_on_host=spread.optimizer_on_host,
            parameters_on_host=spread.parameters_on_host,
            activations_on_host=spread.activations_on_host,
        )

    def _stage(self, name: str, stage: StageConfig, layout: Layout) -> StagePlan:
        shape, parameters, cluster = self.shapes[name], self._parameters[name], self.cluster
        trace = self._trace(shape, layout)
        parts = layout.sequence_parallel
        hidden = layout.micro_rows * shape.length * self.config.backbone.hidden_size * layout.weight_bytes
        offloaded = hidden * self.config.backbone.num_layers if layout.activations_on_host else 0
        peak = max(hidden, trace.peak_bytes - offloaded)
        part = replace(trace, peak_bytes=peak // parts, small_bytes=min(peak, trace.small_bytes) // parts)
        own = stage.own_rollout
        own_passes = own.steps * (1 - own.after) if own is not None else 0.0
        time = step_time(layout, parameters, trace, cluster, hidden, own_passes)
        return StagePlan(
            name=name,
            steps=stage.steps,
            rows=stage.batch.rows,
            shape=shape,
            layout=layout,
            parameters=parameters,
            memory=memory_of(layout, parameters, part, cluster.device),
            time=time,
            useful_flops=self._useful_flops(name, stage),
        )

    def _useful_flops(self, name: str, stage: StageConfig) -> float:
        shape, rows = self.shapes[name], stage.batch.rows
        targets = round(rows * sum(number for _, number in shape.targets))
        tokens = round(rows * shape.tokens)
        return decoder_flops(self._backbones[name].decoder, tokens=tokens, length=shape.length, targets=targets)

    def _trace(self, shape: BatchShape, layout: Layout) -> Trace:
        batch = micro_batch(shape, layout.micro_rows, dense_mask=not self.cluster.device.is_gpu)
        batch = replace(batch, checkpointing=layout.checkpointing)
        key = (layout.precision, batch)
        if key not in self._traces:
            self._traces[key] = trace_micro_batch(self.config.backbone, self.vocabulary, *key)
        return self._traces[key]


def micro_batch(shape: BatchShape, rows: int, *, dense_mask: bool) -> MicroBatch:
    """`rows` rows of a stage's average kind."""
    targets = tuple((modality, max(1, round(rows * number))) for modality, number in shape.targets)
    return MicroBatch(rows, shape.length, targets, dense_mask, checkpointing=False)
