"""A real Slurm: a job of two nodes is submitted, stopped before its time limit, queued again, resumed, and completes.

Needs root, slurm-wlm and munge. Run: pytest -m slow tests/distributed/test_slurm.py
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SYSTEM_PATH, missing, slurm
from tiny_run import ROOT, TinyRun, command, environment, require_same_end, tiny_run

pytestmark = pytest.mark.slow
TRIAL_STEPS = 100
TRAINING_SECONDS = 60
"""More than a job has before it is told to stop, which is 80 seconds before its limit of two minutes."""
SETTINGS = (f"stages.masked.steps={TRIAL_STEPS}", "checkpoint.every_steps=100", "engine.zero=1")
OPTIONS = ["--nodes", "2", "--gpus", "0", "--processes", "1", "--cpus", "1", "--stop-seconds", "20"]
DEADLINE_SECONDS = 1800


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with slurm(tmp_path_factory.mktemp("slurm")) as variables:
        yield environment() | variables | {"PATH": f"{environment()['PATH']}:{SYSTEM_PATH}"}


def launched(run: TinyRun, cluster: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "unimodel", "launch", "slurm", str(run.config_file), *OPTIONS, *options]
    return subprocess.run(words, env=cluster, cwd=ROOT, capture_output=True, text=True, check=False)


def test_slurm_accepts_the_script(cluster: dict[str, str], tmp_path: Path) -> None:
    run = tiny_run(tmp_path, *SETTINGS, stages=("masked",))
    script = launched(run, cluster, "--time", "10", "--dry-run")
    assert script.returncode == 0, script.stderr
    done = subprocess.run(["sbatch", "--test-only"], input=script.stdout, env=cluster, capture_output=True, text=True)
    assert done.returncode == 0 and "to start at" in done.stderr, done.stderr
    refused = launched(run, cluster, "--time", "10", "--sbatch", "partition=nowhere")
    assert refused.returncode == 2 and "sbatch refused" in refused.stderr and "partition" in refused.stderr


def steps_that_last(folder: Path) -> int:
    """Steps that take TRAINING_SECONDS on two ranks of this machine, whatever its speed."""
    trial = tiny_run(folder, *SETTINGS, stages=("masked",))
    assert command("train", str(trial.config_file), ranks=2).returncode == 0
    times = [json.loads(line)["seconds"] for line in trial.run.timing.read_text().splitlines()]
    return max(TRIAL_STEPS, math.ceil(TRAINING_SECONDS / statistics.median(times)))


def test_a_job_is_queued_again_at_its_time_limit_and_completes(cluster: dict[str, str], tmp_path: Path) -> None:
    """C2."""
    long = (*SETTINGS, f"stages.masked.steps={steps_that_last(tmp_path / 'trial')}")
    whole = tiny_run(tmp_path / "whole", *long, stages=("masked",))
    assert command("train", str(whole.config_file), ranks=2).returncode == 0
    run = tiny_run(tmp_path / "queued", *long, stages=("masked",))
    submitted = launched(run, cluster, "--time", "2", "--no-check")
    assert submitted.returncode == 0 and submitted.stdout.startswith("Submitted batch job"), submitted.stderr
    job = submitted.stdout.split()[-1]
    deadline, state = time.monotonic() + DEADLINE_SECONDS, ""
    while state not in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"):
        assert time.monotonic() < deadline, state
        shown = subprocess.run(["scontrol", "show", "job", job], env=cluster, capture_output=True, text=True).stdout
        state = shown.split("JobState=")[1].split()[0]
        time.sleep(1)
    output = (run.run.path / f"slurm-{job}.txt").read_text()
    assert state == "COMPLETED", output[-3000:]
    assert output.count("stopped and saved, queued again") >= 1 and f"Restarts={output.count('queued again')}" in shown
    require_same_end(run, whole)
