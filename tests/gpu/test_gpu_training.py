"""On a GPU: a run under every ZeRO stage and precision, interrupted and not, and the CPU's losses beside it.

Run: pytest -m gpu tests/gpu/test_gpu_training.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import ROOT, TinyRun, command, environment, require_same_end, tiny_run

from unimodel.training.checkpoint import list_checkpoints

pytestmark = pytest.mark.gpu
SETTINGS = ("checkpoint.every_steps=4", "checkpoint.keep_last=9", "faults.hang_seconds=null")


def losses(run: TinyRun) -> list[float]:
    return [line["loss"] for line in run.metrics()]


def trained(folder: Path, *overrides: str) -> TinyRun:
    run = tiny_run(folder, *SETTINGS, *overrides, stages=("interactive",))
    done = command("train", str(run.config_file))
    assert done.returncode == 0, done.stderr[-3000:]
    return run


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_run_that_stopped_half_way_ends_as_the_whole_one(zero: int, precision: str, tmp_path: Path) -> None:
    engine = (f"engine.zero={zero}", f"engine.precision={precision}")
    whole = trained(tmp_path / "whole", *engine)
    stopped = tiny_run(tmp_path / "stopped", *SETTINGS, *engine, stages=("interactive",))
    shutil.copytree(whole.run.path, stopped.run.path, dirs_exist_ok=True)
    newest, *_ = list_checkpoints(stopped.run.checkpoints)
    shutil.rmtree(newest)  # as if it had been killed before its end
    resumed = command("train", str(stopped.config_file))
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    require_same_end(whole, stopped)


def test_losses_are_those_of_the_cpu(tmp_path: Path) -> None:
    gpu = trained(tmp_path / "gpu")
    cpu = tiny_run(tmp_path / "cpu", *SETTINGS, stages=("interactive",))
    hidden = environment() | {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    arguments = [sys.executable, "-m", "unimodel", "train", str(cpu.config_file)]
    done = subprocess.run(arguments, env=hidden, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(gpu) == pytest.approx(losses(cpu), rel=2e-3)
    assert len(losses(gpu)) == gpu.total_steps
