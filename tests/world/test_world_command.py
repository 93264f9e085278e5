"""`unimodel world` as a user runs it.

Run: pytest tests/world/test_world_command.py
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from aligned_run import alignment
from tiny_run import TinyRun, tiny_run, train_here
from typer.testing import CliRunner

from unimodel.cli import app
from unimodel.config_file import load_config
from unimodel.world.stage import world_stage


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = tiny_run(tmp_path_factory.mktemp("stepped"), stages=("interactive",))
    train_here(run.config)
    return run


def test_bench_tells_every_part_of_a_frame(run: TinyRun) -> None:
    done = CliRunner().invoke(app, ["world", "bench", str(run.run.path), "--frames", "10", "--worlds", "3"])
    assert done.exit_code == 0, done.output
    for part in (
        "1 pass ",
        "each further pass",
        "reading a moved window again",
        "codes to a picture",
        "keys and values",
    ):
        assert part in done.output
    rates = [float(rate.replace(",", "")) for rate in re.findall(r"([\d,.]+) frames/s", done.output)]
    assert len(rates) >= 2 and all(rate > 0 for rate in rates)


def test_a_run_without_stage_3_cannot_be_stepped(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, stages=("masked",))
    train_here(run.config)
    done = CliRunner().invoke(app, ["world", "bench", str(run.run.path)])
    assert isinstance(done.exception, ValueError)
    assert "none of its stages was trained on interaction sequences" in str(done.exception)


def test_a_later_stage_without_a_world_is_passed_over(tmp_path: Path) -> None:
    """As of the demo, whose last stages learn something else."""
    steps = [f"stages.{stage}.steps=2" for stage in ("unified", "interactive")]
    run = tiny_run(tmp_path, *steps, f"stages.aligned={alignment('grpo')}", stages=("unified", "interactive"))
    train_here(run.config)
    path = str(run.run.path)
    assert world_stage(run.run.path) == "interactive"
    for arguments in (
        ["world", "create", path, "garden"],
        ["world", "step", path, "garden", "--actions", "0,1"],
        ["world", "open", path, "garden"],
        ["world", "bench", path, "--frames", "10"],
        ["generate", path, "--actions", "0,1"],
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (arguments, done.exception)
    with pytest.raises(ValueError, match="'aligned' was not trained on interaction"):
        world_stage(run.run.path, "aligned")


def test_a_world_that_is_not_finished_says_what_to_do(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "stages.unified.steps=2", stages=("unified", "interactive"))
    train_here(load_config(run.config_file, ["stages.interactive.steps=1"]))
    shutil.rmtree(run.run.checkpoints / "00000003-interactive")
    with pytest.raises(FileNotFoundError, match="stage 'interactive' is not finished; run `unimodel train CONFIG`"):
        world_stage(run.run.path)
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        world_stage(tmp_path / "nowhere")
