"""Plans: what may and may not come out of one, and the command as a user runs it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_run import tiny_run
from typer.testing import CliRunner

from unimodel.backbone.model import Backbone, build_decoder
from unimodel.cli import app
from unimodel.config import RunConfig
from unimodel.config_file import load_config, validate
from unimodel.planning.batch_shape import batch_shapes, planned_vocabulary
from unimodel.planning.hardware import GPUS, Cluster
from unimodel.planning.plan import Planner
from unimodel.planning.scale import scaled
from unimodel.planning.update import count_parameters, meta_backbone, micro_row_choices
from unimodel.run_folder import RunFolder
from unimodel.vocabulary import Vocabulary

VALUES: dict[str, Any] = {
    "name": "planned",
    "data": {"folder": "nowhere"},
    "backbone": {
        "hidden_size": 1024,
        "num_layers": 8,
        "num_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 4096,
    },
    "engine": {"precision": "bf16", "zero": 2},
    "stages": {
        "masked": {
            "number": 1,
            "steps": 1000,
            "batch": {"rows": 16, "row_tokens": 1024},
            "mixture": [{"sequence": "clip", "objective": "all"}],
            "objectives": {"all": {"kind": "masked"}},
        }
    },
}


def planner(gpus: int = 16, gpu: str = "h200", **changes: Any) -> Planner:
    config = validate(VALUES | changes, "test")
    run = RunFolder(config.folder)
    cluster = Cluster(GPUS[gpu], gpus, min(gpus, 8))
    return Planner(config, cluster, planned_vocabulary(config, run), batch_shapes(config, run))


def write_config(folder: Path, **changes: Any) -> Path:
    path = folder / "planned.yaml"
    path.write_text(json.dumps(VALUES | changes), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_parameters_are_those_of_the_built_decoder(kind: str) -> None:
    vocabulary = Vocabulary(text_size=500)
    changed = VALUES["stages"]["masked"] | {"freeze": ["*embed_tokens*"], "optimizer": {"kind": kind}}
    stage = validate(VALUES | {"stages": {"masked": changed}}, "test").stages["masked"]
    config = validate(VALUES, "test").backbone.model_copy(update={"num_layers": 2, "hidden_size": 128})
    counted = count_parameters(meta_backbone(config, vocabulary, stage), stage)
    parameters = dict(Backbone(build_decoder(config, vocabulary, 0)).named_parameters())
    assert counted.total == sum(parameter.numel() for parameter in parameters.values())
    assert counted.frozen == sum(p.numel() for name, p in parameters.items() if "embed_tokens" in name)
    matrices = sum(p.numel() for name, p in parameters.items() if p.ndim == 2 and "embed" not in name)
    assert counted.orthogonal == (matrices if kind == "muon" else 0)


def test_hierarchical_weights_are_held_a_second_time() -> None:
    once, twice = (
        planner(engine={"precision": "bf16", "zero": 3, "hierarchical_ranks": n}).as_configured().stages[0]
        for n in (1, 8)
    )
    assert twice.memory.parameters - once.memory.parameters == 2 * once.parameters.total // 8


def test_ranks_that_share_rows_must_divide_the_devices() -> None:
    with pytest.raises(ValueError, match=r"engine.sequence_parallel \(3\) must divide the number of devices \(16\)"):
        stages = {"masked": VALUES["stages"]["masked"] | {"batch": {"rows": 48, "row_tokens": 1536}}}
        planner(engine={"sequence_parallel": 3}, stages=stages).as_configured()


def test_every_share_of_rows_is_looked_at_once() -> None:
    assert list(micro_row_choices(24, 2)) == [1, 2, 3, 4, 6, 12]
    assert list(micro_row_choices(36, 1)) == [1, 2, 3, 4, 6, 9, 12, 18, 36]
    assert list(micro_row_choices(24, 5)) == []


@pytest.mark.slow
def test_higher_zero_stages_hold_less_and_send_more() -> None:
    plans = [planner(engine={"precision": "bf16", "zero": zero}).as_configured().stages[0] for zero in range(4)]
    held = [plan.memory.parameters + plan.memory.optimizer for plan in plans]
    assert held == sorted(held, reverse=True) and held[0] > held[3]
    assert plans[3].time.communication > plans[1].time.communication


def test_checkpointing_trades_memory_for_time() -> None:
    plain, saving = (
        planner(2, engine={"precision": "bf16", "activation_checkpointing": on}).as_configured().stages[0]
        for on in (False, True)
    )
    assert saving.memory.activations < plain.memory.activations / 2
    assert saving.time.compute > plain.time.compute
    assert saving.useful_flops == plain.useful_flops


def test_best_plan_fits_and_is_as_fast_as_the_configured_one() -> None:
    found = planner()
    best = found.best()
    assert best is not None and best.fits
    assert best.seconds <= 1.02 * found.as_configured().seconds


@pytest.mark.slow
def test_device_too_small_has_no_best_plan_but_a_smallest() -> None:
    large = VALUES["backbone"] | {"num_layers": 400, "hidden_size": 16384, "intermediate_size": 65536}
    found = planner(8, "rtx4090", backbone=large)
    smallest = found.smallest()
    assert found.best() is None and smallest is not None and not smallest.fits


@pytest.mark.slow
def test_what_fits_no_device_alone_may_lie_in_host_memory() -> None:
    large = VALUES["backbone"] | {"num_layers": 64, "hidden_size": 4096, "intermediate_size": 14336}
    found = planner(8, "rtx4090", backbone=large)
    best = found.best()
    assert best is not None and best.fits
    layout = best.stages[0].layout
    assert layout.optimizer_on_host and best.stages[0].memory.optimizer == 0
    assert best.stages[0].memory.host > found.as_configured().stages[0].memory.host


@pytest.mark.slow
def test_more_devices_wait_and_fail_more() -> None:
    found = planner()
    config: RunConfig = found.config
    lines = list(scaled(found.as_configured(), config, found.vocabulary, found.shapes["masked"]))
    assert [line.devices for line in lines] == [16 << i for i in range(9)]
    assert all(a.goodput >= b.goodput for a, b in zip(lines, lines[1:], strict=False))
    assert lines[-1].tokens_per_second > 100 * lines[0].tokens_per_second


@pytest.mark.slow
def test_proposed_settings_are_a_config(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    shown = CliRunner().invoke(app, ["plan", str(path), "--gpus", "4", "--gpu", "h100"])
    assert shown.exit_code == 0, shown.output
    line = next(line for line in shown.output.splitlines() if line.startswith("settings of"))
    sets = [part for part in line.split() if "=" in part]
    assert sets and load_config(path, sets).name == "planned"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gpu", "h999"], "known are a100"),
        (["--gpus", "9", "--nodes", "2"], "--gpus 9 cannot be spread evenly over --nodes 2"),
        (["--gpus", "7"], "no stage's rows can be dealt to 7 devices"),
    ],
)
def test_mistake_is_one_message(tmp_path: Path, options: list[str], said: str) -> None:
    command = [sys.executable, "-m", "unimodel", "plan", str(write_config(tmp_path)), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_cpu_is_planned_from_the_runs_own_tokens(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, stages=("masked", "unified"))
    shapes = batch_shapes(run.config, run.run)
    assert not any(shape.assumed for shape in shapes.values())
    assert {modality.label for modality, _ in shapes["unified"].targets} == {"text", "image"}
    shown = CliRunner().invoke(app, ["plan", str(run.config_file), "--gpu", "cpu", "--json"])
    assert shown.exit_code == 0, shown.output
    stages = json.loads(shown.output)["as_configured"]["stages"]
    assert [stage["name"] for stage in stages] == ["masked", "unified"]
    assert all(stage["time"]["compute"] > 0 and stage["mfu"] is None for stage in stages)


@pytest.mark.slow
def test_seventy_billion_parameters_are_planned_in_little_memory() -> None:
    command = ["plan", "configs/recipes/70b.yaml", "--gpus", "64", "--gpu", "h200", "--nodes", "8", "--json"]
    done = subprocess.run([sys.executable, "-m", "unimodel", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["best"]["fits"] and figures["best"]["stages"][0]["parameters"] > 70e9
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 4 << 30
