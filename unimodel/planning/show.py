"""A plan for a person: what fits, how long it takes, what holds it up, and which settings are better."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from unimodel.planning.hardware import GIB
from unimodel.planning.plan import RunPlan, StagePlan
from unimodel.planning.scale import (
    HOURS_BETWEEN_FAILURES,
    RESTART_SECONDS,
    STORAGE_BYTES_PER_SECOND,
    Scaled,
)

WORKER_TOKENS_PER_SECOND = 1.0e6
"""What one data worker streams of short samples (benchmarks/results/tokenised_loading.txt)."""
MEMORY_KINDS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer and average",
    "activations": "activations",
    "buffers": "buffers",
    "checkpoint_copy": "copy for a checkpoint",
    "runtime": "libraries and driver",
    "margin": "margin for fragments",
}


def plan_table(title: str, plan: RunPlan) -> Table:
    """A column for every stage."""
    table = Table(title)
    for stage in plan.stages:
        table.add_column(stage.name, justify="right")
    for part in (_layout_lines, _memory_lines, _time_lines):
        columns = [list(part(plan, stage)) for stage in plan.stages]
        for lines in zip(*columns, strict=True):
            if any(text for _, text in lines):
                table.add_row(lines[0][0], *(text for _, text in lines))
        table.add_section()
    return table


def _layout_lines(plan: RunPlan, stage: StagePlan) -> Iterator[tuple[str, str]]:
    layout = stage.layout
    yield "ZeRO stage", str(layout.zero)
    yield "micro-batch x accumulation x ranks", f"{layout.micro_rows} x {layout.accumulation} x {layout.data_ranks}"
    yield "checkpointing", "yes" if layout.checkpointing else "no"
    yield "sequence parallel", str(layout.sequence_parallel) if layout.sequence_parallel > 1 else ""
    offloaded = (
        ("optimizer", layout.optimizer_on_host),
        ("parameters", layout.parameters_on_host),
        ("activations", layout.activations_on_host),
    )
    yield "in host memory", ", ".join(name for name, is_there in offloaded if is_there)


def _memory_lines(plan: RunPlan, stage: StagePlan) -> Iterator[tuple[str, str]]:
    memory, whole = stage.memory, plan.cluster.device.memory_bytes
    for kind, label in MEMORY_KINDS.items():
        size = getattr(memory, kind)
        yield f"GiB {label}", f"{size / GIB:.2f}" if size else ""
    yield f"GiB of {whole / GIB:.0f}", f"{memory.total / GIB:.2f} ({memory.total / whole:.0%})"
    yield "peak in", "update" if memory.peak_in_update else "backward"


def _time_lines(plan: RunPlan, stage: StagePlan) -> Iterator[tuple[str, str]]:
    time, cluster = stage.time, plan.cluster
    mfu = stage.mfu(cluster)
    achieved = stage.useful_flops / time.total / cluster.num_devices / 1e12
    yield "ms computing", f"{1e3 * time.compute:,.1f}"
    yield "ms updating", f"{1e3 * time.update:,.1f}"
    yield "ms waiting for others", f"{1e3 * time.exposed:,.1f} ({time.exposed / time.total:.0%})"
    yield "ms a step", f"{1e3 * time.total:,.1f}"
    yield "tokens/s", f"{stage.tokens / time.total:,.0f}"
    yield "TFLOP/s a device", f"{achieved:,.2f}"
    yield "MFU", "" if mfu is None else f"{mfu:.0%}"
    yield "steps", f"{stage.steps:,}"
    yield "time", duration(stage.seconds)
    yield "device-hours", f"{stage.seconds / 3600 * cluster.num_devices:,.1f}"
    yield "samples/s to load", f"{stage.samples_per_second:,.0f}"
    yield "GiB a checkpoint", f"{stage.checkpoint_bytes / GIB:,.2f}"
    yield "ms still for it", f"{1e3 * stage.stall_seconds(cluster):,.0f}"


def limits(plan: RunPlan) -> Iterator[str]:
    """What holds the plan up, and what it needs of the host."""
    cluster = plan.cluster
    for stage in plan.stages:
        time = stage.time
        parts = {"communication": time.exposed, "the update": time.update, "computing": time.compute}
        most = max(parts, key=lambda part: parts[part])
        if most == "computing" and time.launch_bound:
            most = "starting operations, too small for this device: more rows in a micro-batch cost no time"
        kinds = {label: getattr(stage.memory, kind) for kind, label in MEMORY_KINDS.items()}
        largest = max(kinds, key=lambda label: kinds[label])
        yield f"{stage.name}: most of a step is {most}; most memory goes to {largest}"
    tokens = max(stage.tokens / stage.time.total for stage in plan.stages) / cluster.num_devices
    yield f"data.workers {-(-tokens // WORKER_TOKENS_PER_SECOND):.0f}: up to {tokens:,.0f} tokens/s to each rank"
    host = max(stage.memory.host for stage in plan.stages)
    if host:
        needed = host * cluster.per_node / GIB
        yield f"host memory: {needed:,.0f} GiB a node, for weights as ranks start and copies of checkpoints"


def settings(plan: RunPlan) -> list[str]:
    """The overrides that make a run of this plan."""
    layout = plan.stages[0].layout
    lines = [
        f"engine.zero={layout.zero}",
        f"engine.activation_checkpointing={str(layout.checkpointing).lower()}",
        *(f"stages.{stage.name}.batch.accumulation={stage.layout.accumulation}" for stage in plan.stages),
    ]
    if layout.sequence_parallel > 1:
        lines.append(f"engine.sequence_parallel={layout.sequence_parallel}")
    if layout.hierarchical_ranks > 1:
        lines.append(f"engine.hierarchical_ranks={layout.hierarchical_ranks}")
    if layout.optimizer_on_host:
        lines.append("engine.offload_optimizer=cpu")
    if layout.parameters_on_host:
        lines.append("engine.offload_parameters=cpu")
    if layout.activations_on_host:
        lines.append("engine.activation_offload=true")
    return lines


def scale_table(lines: Sequence[Scaled]) -> Table:
    table = Table("devices", "rows", "ms a step", "tokens/s", "MFU", "waiting", "save every", "time in steps")
    for column in table.columns:
        column.justify = "right"
    for line in lines:
        table.add_row(
            f"{line.devices:,}",
            f"{line.rows:,}",
            f"{1e3 * line.step_seconds:,.0f}",
            f"{line.tokens_per_second:,.0f}",
            "" if line.mfu is None else f"{line.mfu:.0%}",
            f"{line.communication_share:.0%}",
            f"{line.checkpoint_minutes:,.0f} min",
            f"{line.goodput:.1%}",
        )
    return table


SCALE_ASSUMPTIONS = (
    "Simulated, last stage, as many rows to each device: rings over the slowest link, no rank slower than another, one "
    f"failure of a device in {HOURS_BETWEEN_FAILURES:,} hours, {RESTART_SECONDS / 60:.0f} minutes to start again, "
    f"checkpoints as often as loses least and {STORAGE_BYTES_PER_SECOND / 1e9:.0f} GB/s a node can write."
)


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:,.1f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 172_800 else f"{seconds / 86_400:,.1f} days"
