"""`unimodel launch local` with real processes: killed, stopped, asked to leave, and given a wrong config.

Run: pytest tests/launch/test_local.py
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos import ranks_of
from killed_processes import require_gone, wait_for
from tiny_run import ROOT, TinyRun, command, environment, require_same_end, tiny_run

SETTINGS = ("stages.masked.steps=40", "checkpoint.every_steps=4", "engine.zero=1", "faults.hang_seconds=8")
RANKS = 2


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = tiny_run(tmp_path_factory.mktemp("undisturbed"), *SETTINGS, stages=("masked",))
    done = command("launch", "local", str(run.config_file), "--processes", str(RANKS), "--check")
    assert done.returncode == 0, done.stderr
    assert "all-reduce over 2 ranks" in done.stdout and "GB free" in done.stdout
    return run


def start(run: TinyRun, *options: str) -> subprocess.Popen[str]:
    words = ["-m", "unimodel", "launch", "local", str(run.config_file), "--processes", str(RANKS), *options]
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def reach(process: subprocess.Popen[str], run: TinyRun, steps: int) -> list[int]:
    """The ranks, once so many steps are done."""
    wait_for(lambda: run.num_lines() >= steps or process.poll() is not None, "steps")
    ranks = ranks_of(process)
    assert len(ranks) == RANKS, process.communicate()[0]
    return ranks


def end(process: subprocess.Popen[str], status: int) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == status, output
    return output


def killed(pids: list[int]) -> None:
    os.kill(pids[1], signal.SIGKILL)


def stopped(pids: list[int]) -> None:
    os.kill(pids[0], signal.SIGSTOP)


def asked_to_leave(pids: list[int]) -> None:
    os.kill(pids[1], signal.SIGTERM)


@pytest.mark.parametrize(
    "attack", [killed, *(pytest.param(other, marks=pytest.mark.slow) for other in (stopped, asked_to_leave))]
)
def test_a_rank_in_trouble_is_mended(attack: Callable[[list[int]], None], undisturbed: TinyRun, tmp_path: Path) -> None:
    run = tiny_run(tmp_path, *SETTINGS, stages=("masked",))
    process = start(run, "--stop-seconds", "5")
    attack(reach(process, run, 10))
    output = end(process, 0)
    require_same_end(run, undisturbed)
    assert len(run.run.starts.read_text().splitlines()) >= 2
    if attack is stopped:
        assert "has not moved for 8 seconds" in output
        assert "Current thread" in "".join(file.read_text() for file in run.run.stacks.iterdir())


def test_a_run_that_is_asked_to_stop_saves_and_wants_to_be_queued_again(undisturbed: TinyRun, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        run = tiny_run(tmp_path / number.name, *SETTINGS, "checkpoint.every_steps=1000", stages=("masked",))
        process = start(run)
        ranks = reach(process, run, 10)
        process.send_signal(number)
        output = end(process, 75)
        assert f"stopped by {number.name}" in output and "saved" in output
        require_gone(ranks)
        assert 10 <= run.num_lines() < 40
    process = start(run)
    end(process, 0)
    assert run.run.metrics.read_bytes() == undisturbed.run.metrics.read_bytes()


@pytest.mark.slow
def test_ranks_stop_and_save_when_their_agent_is_killed(undisturbed: TinyRun, tmp_path: Path) -> None:
    run = tiny_run(tmp_path, *SETTINGS, stages=("masked",))
    process = start(run)
    ranks = reach(process, run, 10)
    process.kill()
    require_gone(ranks)
    assert 10 <= run.num_lines() < 40
    end(start(run), 0)
    require_same_end(run, undisturbed)


def test_a_mistake_is_told_once_and_not_tried_again(undisturbed: TinyRun, tmp_path: Path) -> None:
    other = undisturbed.config_file.read_text().replace("seed: 11", "seed: 12")
    changed = TinyRun(tmp_path / "config.yaml", undisturbed.config)
    changed.config_file.write_text(other)
    output = end(start(changed), 2)
    assert output.count("error: ") == 1, output
    assert "different: seed (was 11, is 12)" in output
    assert "Traceback" not in output and "restarts" not in output
