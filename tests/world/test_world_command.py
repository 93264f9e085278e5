"""`unimodel world` as a user runs it.

Run: pytest tests/world/test_world_command.py
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_run import TinyRun, tiny_run, train_here
from typer.testing import CliRunner

from unimodel.cli import app


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
    assert "was not trained on interaction sequences" in str(done.exception)
