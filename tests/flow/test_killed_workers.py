"""Training with data workers: kill -9 of a worker, of the run, of two ranks. It ends as if nothing had happened, and as
if there were no workers; no process is left behind.

Run: pytest tests/flow/test_killed_workers.py -m ""
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from killed_processes import children_of, require_gone, workers_of
from tiny_run import TinyRun, command, require_same_end, start, tiny_run, train_here, wait_until

STEPS = ("stages.unified.steps=24", "checkpoint.every_steps=4")
"""Long enough that a busy machine still stops the process well before its end."""


def unified(folder: Path, *overrides: str) -> TinyRun:
    return tiny_run(folder, *STEPS, *overrides, stages=("unified",))


def kill_a_worker(run: TinyRun, after_lines: int) -> None:
    """kill -9 of one data worker of `unimodel train`: told in one line, and nothing is left running."""
    process = start("train", str(run.config_file))
    wait_until(process, lambda: run.num_lines() >= after_lines)
    workers = workers_of(process.pid)
    assert len(workers) == run.config.data.workers
    os.kill(random.Random(after_lines).choice(workers), signal.SIGKILL)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors  # not 2, a mistake: starting again helps
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and "a data worker was killed by SIGKILL" in told[0] and "same command again" in told[0], (
        errors
    )
    assert "Traceback" not in out + errors and "Exception ignored" not in out + errors, errors
    require_gone(workers)


def kill_the_run(run: TinyRun, after_lines: int) -> None:
    """kill -9 of `unimodel train`: its workers end with it."""
    process = start("train", str(run.config_file))
    wait_until(process, lambda: run.num_lines() >= after_lines)
    workers = workers_of(process.pid)
    assert len(workers) == run.config.data.workers
    process.kill()
    process.communicate(timeout=120)
    require_gone(workers)
    assert run.num_lines() < run.total_steps, "it was stopped before its end"


def test_killed_workers_and_runs_change_nothing(tmp_path: Path) -> None:
    run = unified(tmp_path / "killed", "data.workers=2")
    kill_a_worker(run, after_lines=3)
    kill_the_run(run, after_lines=9)
    train_here(run.config)
    whole = unified(tmp_path / "whole")
    train_here(whole.config)
    assert whole.num_lines() == whole.total_steps and whole.config.data.workers == 0
    require_same_end(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_any_moment(workers: int, seed: int, tmp_path: Path) -> None:
    """All stages; at a random step a worker, then the run, then the same command to the end."""
    stages = tuple(f"stages.{stage}.steps=16" for stage in ("masked", "unified", "interactive"))
    run, chooser = tiny_run(tmp_path / "killed", *stages, f"data.workers={workers}"), random.Random(seed)
    kill_a_worker(run, chooser.randrange(2, 14))
    kill_the_run(run, chooser.randrange(15, 38))
    again = command("train", str(run.config_file))
    assert again.returncode == 0, again.stderr
    whole = tiny_run(tmp_path / "whole", *stages)
    train_here(whole.config)
    require_same_end(run, whole)


@pytest.mark.slow
def test_two_killed_ranks_with_workers(tmp_path: Path) -> None:
    """kill -9 of the launcher and of both ranks, as when a node is lost."""
    run = unified(tmp_path / "killed", "data.workers=1")
    launcher = start("train", str(run.config_file), ranks=2)
    wait_until(launcher, lambda: run.num_lines() >= 5)
    ranks = children_of(launcher.pid)
    workers = [worker for rank in ranks for worker in workers_of(rank)]
    assert len(ranks) == len(workers) == 2
    for pid in (launcher.pid, *ranks):
        os.kill(pid, signal.SIGKILL)
    launcher.communicate(timeout=120)
    require_gone([*ranks, *workers])
    assert run.num_lines() < run.total_steps
    again = command("train", str(run.config_file), ranks=2)
    assert again.returncode == 0, again.stderr
    whole = unified(tmp_path / "whole")
    result = command("train", str(whole.config_file), ranks=2)
    assert result.returncode == 0, result.stderr
    require_same_end(run, whole)
