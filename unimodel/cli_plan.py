"""`unimodel plan`: memory, time and cost of a run before it starts."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unimodel.cli_data import ConfigFile, Overrides

if TYPE_CHECKING:
    from unimodel.config import RunConfig
    from unimodel.planning.batch_shape import BatchShape
    from unimodel.planning.hardware import Cluster
    from unimodel.planning.plan import Planner, RunPlan
    from unimodel.vocabulary import Vocabulary

DEVICES_PER_NODE = 8


def plan_command(
    config: ConfigFile,
    gpus: Annotated[int, typer.Option(min=1, help="Devices in all.")] = 1,
    gpu: Annotated[str, typer.Option(help="Which: h200, h100, a100 ..., or cpu for this machine, measured.")] = "h200",
    nodes: Annotated[int | None, typer.Option(min=1, help="Nodes that they stand in; 8 to a node otherwise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    overrides: Overrides = None,
) -> None:
    """Tell what a run will need and take, and which settings are better; nothing is trained or written."""
    from unimodel.config_file import load_config
    from unimodel.planning.batch_shape import batch_shapes, planned_vocabulary
    from unimodel.planning.plan import Planner
    from unimodel.run_folder import RunFolder

    settings, left_out = _plannable(load_config(config, overrides))
    run = RunFolder(settings.folder)
    if nodes is not None and gpus % nodes:
        raise ValueError(f"--gpus {gpus} cannot be spread evenly over --nodes {nodes}")
    per_node = gpus // nodes if nodes is not None else min(gpus, DEVICES_PER_NODE)
    vocabulary, shapes = planned_vocabulary(settings, run), batch_shapes(settings, run)
    cluster = _cluster(settings, vocabulary, shapes, gpu, gpus, per_node)
    planner = Planner(settings, cluster, vocabulary, shapes)
    if as_json:
        typer.echo(json.dumps(_figures(planner), indent=2))
    else:
        for name in left_out:
            typer.echo(f"stage {name} is left out: what it takes to draw pictures and judge them is not planned")
        _show(planner)


def _plannable(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """The run without its alignment stages, and their names. Raises ValueError when it has no others."""
    planned = {name: stage for name, stage in config.stages.items() if stage.alignment is None}
    if not planned:
        raise ValueError("the run has alignment stages only, and what those take is not planned")
    return config.model_copy(update={"stages": planned}), [name for name in config.stages if name not in planned]


def _cluster(
    settings: RunConfig, vocabulary: Vocabulary, shapes: dict[str, BatchShape], gpu: str, gpus: int, per_node: int
) -> Cluster:
    from unimodel.planning.hardware import Cluster, named_device
    from unimodel.planning.plan import micro_batch

    if gpu != "cpu":
        return Cluster(named_device(gpu), gpus, per_node)
    import torch

    from unimodel.planning.calibrate import this_cpu

    if gpus > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // gpus))
    name, stage = max(settings.ordered_stages, key=lambda item: item[1].batch.row_tokens)
    batch = micro_batch(shapes[name], stage.batch.micro_rows(gpus), dense_mask=True)
    device = this_cpu(settings.backbone, vocabulary, settings.engine.precision, batch)
    return Cluster(device, gpus, gpus)


def _figures(planner: Planner) -> dict[str, Any]:
    def of(plan: RunPlan | None) -> dict[str, Any] | None:
        if plan is None:
            return None
        stages = []
        for stage in plan.stages:
            memory, time = asdict(stage.memory), asdict(stage.time)
            memory["total"], time["total"] = stage.memory.total, stage.time.total
            stages.append(
                {
                    "name": stage.name,
                    "layout": asdict(stage.layout),
                    "parameters": stage.parameters.total,
                    "memory": memory,
                    "time": time,
                    "tokens_per_second": stage.tokens / stage.time.total,
                    "mfu": stage.mfu(plan.cluster),
                    "samples_per_second": stage.samples_per_second,
                    "checkpoint_bytes": stage.checkpoint_bytes,
                    "stall_seconds": stage.stall_seconds(plan.cluster),
                }
            )
        return {"fits": plan.fits, "seconds": plan.seconds, "stages": stages}

    return {"as_configured": of(planner.as_configured()), "best": of(planner.best())}


def _plans(planner: Planner) -> list[tuple[str, RunPlan]]:
    """As configured, and the best, where they differ. Raises ValueError when there is none at all."""
    from unimodel.observe.progress import say

    plans: list[tuple[str, RunPlan]] = []
    try:
        plans.append(("as configured", planner.as_configured()))
    except ValueError as error:
        say(f"as configured it cannot run: {error}")
    better = planner.best()
    title = "fastest that fits"
    if better is None:
        better, title = planner.smallest(), "least memory"
    if better is not None and (not plans or better.stages != plans[0][1].stages):
        plans.append((title, better))
    if not plans:
        devices = planner.cluster.num_devices
        raise ValueError(f"no stage's rows can be dealt to {devices} devices: raise batch.rows, or take fewer")
    return plans


def _show(planner: Planner) -> None:
    from unimodel.observe.progress import console, say
    from unimodel.planning.scale import scaled
    from unimodel.planning.show import (
        SCALE_ASSUMPTIONS,
        duration,
        limits,
        plan_table,
        scale_table,
        settings,
    )

    cluster, config = planner.cluster, planner.config
    plans = _plans(planner)
    total = max(stage.parameters.total for stage in plans[0][1].stages)
    say(
        f"{total / 1e9:,.3f} billion parameters, {config.engine.precision}, {cluster.num_devices} x "
        f"{cluster.device.name} on {cluster.num_nodes} node{'s' * (cluster.num_nodes > 1)}"
    )
    if any(shape.assumed for shape in planner.shapes.values()):
        say("the run has no tokens yet: half of all places are taken to have a target, one sample to a row")
    for label, plan in plans:
        console.print(plan_table(label, plan))
    title, chosen = plans[-1]
    for line in limits(chosen):
        say(line)
    for label, plan in plans:
        hours = plan.seconds / 3600 * cluster.num_devices
        fits = "fits" if plan.fits else "does NOT fit"
        say(f"{label}: {fits}, {duration(plan.seconds)}, {hours:,.1f} device-hours")
    say(f"settings of '{title}': " + " ".join(f"--set {line}" for line in settings(chosen)))
    if cluster.device.is_gpu and math.log2(cluster.num_devices).is_integer():
        name = config.ordered_stages[-1][0]
        console.print(scale_table(list(scaled(chosen, config, planner.vocabulary, planner.shapes[name]))))
        say(SCALE_ASSUMPTIONS)
