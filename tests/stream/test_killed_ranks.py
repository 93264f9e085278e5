"""Real ranks and workers killed by kill -9 at any moment and continued in other numbers: no row lost, none repeated.

Run: pytest tests/stream/test_killed_ranks.py
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from killed_processes import children_of, log_steps, read_log, require_gone, wait_for
from toy_stream import rows_of, stream

PHASES = ((2, 2), (3, 1), (1, 4), (8, 0), (4, 1))
"""(ranks, workers) one after another."""
STEPS = 130
"""More than two epochs of every ingredient, over which the shares change."""


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Starts clean ones cheaply: forked from a server that has imported torch and started nothing."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy_stream"])
    return context


def test_killed_ranks_go_on_in_other_numbers(processes: Any, tmp_path: Path) -> None:
    """B1: the union of the ranks is, step by step, what one process without workers gives."""
    chooser = random.Random(5)
    got: list[list[tuple[int, ...]]] = []
    state: dict[str, Any] | None = None
    for phase, (num_ranks, workers) in enumerate(PHASES):
        logs = [tmp_path / f"{phase}-{rank}.jsonl" for rank in range(num_ranks)]
        last = phase == len(PHASES) - 1
        until = None if last else len(got) + chooser.randrange(2, 25)
        stop = until + 25 if until is not None else STEPS
        ranks = [
            processes.Process(
                target=log_steps,
                args=(log, state, len(got), (rank, num_ranks, workers, stop)),
                kwargs={"stays": not last},  # however slowly they are watched, they do not end by themselves
            )
            for rank, log in enumerate(logs)
        ]
        for rank in ranks:
            rank.start()
        run_and_kill(ranks, logs, until)
        lines = [read_log(log) for log in logs]
        # What a checkpoint would hold: the last step that all ranks have finished.
        for made in zip(*lines, strict=False):
            assert {line["step"] for line in made} == {len(got)}
            got.append(sorted(tuple(row) for line in made for row in line["rows"]))
            assert len({json.dumps(line["state"]) for line in made}) == 1
            state = made[0]["state"]
    source = stream()
    assert len(got) >= STEPS and got == [sorted(rows_of(next(source))) for _ in got]


def run_and_kill(ranks: list[BaseProcess], logs: list[Path], until: int | None) -> None:
    """To the end, or kill -9 of all once a rank has done step `until`; no worker outlives its rank."""
    if until is not None:
        wait_for(lambda: any(line["step"] >= until for log in logs for line in read_log(log)[-1:]), "a step")
        workers = [child for rank in ranks for child in children_of(rank.pid or 0)]
        assert bool(workers) == any(line["workers"] for log in logs for line in read_log(log)[-1:])
        for rank in ranks:
            rank.kill()
        require_gone(workers)
    for rank in ranks:
        rank.join()
        assert rank.exitcode == (0 if until is None else -signal.SIGKILL)


def test_workers_with_results_to_hand_over_do_not_outlive_a_killed_rank(processes: Any, tmp_path: Path) -> None:
    """More results than a pipe holds: workers that wait to write them would wait for ever."""
    log = tmp_path / "log.jsonl"
    rank = processes.Process(target=log_steps, args=(log, None, 0, (0, 1, 32, 10**4)), kwargs={"stays": True})
    rank.start()
    wait_for(lambda: len(read_log(log)) > 3, "steps")
    os.kill(rank.pid, signal.SIGSTOP)
    time.sleep(1)  # they fill the pipe
    workers = children_of(rank.pid)
    assert len(workers) == 32
    rank.kill()
    require_gone(workers)
    rank.join()


KILLED_WORKER = """
import multiprocessing, os, signal, sys
from toy_stream import stream
from data_pipelines.stream.workers import WorkerError

source = stream(workers=2)
rows = [next(source) for _ in range(3)]
worker = multiprocessing.active_children()[0]
os.kill(worker.pid, signal.SIGKILL)
if sys.argv[1] == "reaped by others":
    os.waitpid(worker.pid, 0)
try:
    for _ in range(50):
        rows.append(next(source))
except WorkerError as error:
    assert source.state == rows[-1].state
    again, whole = [next(source) for _ in range(4)], stream()
    rows += again
    assert [step.state for step in rows] == [next(whole).state for _ in rows]
    source.close()
    sys.exit(f"told: {error}")
"""


@pytest.mark.parametrize("when", ["unseen", pytest.param("reaped by others", marks=pytest.mark.slow)])
def test_a_killed_worker_is_told_where_a_step_is_waited_for(when: str) -> None:
    """Whoever else has waited for it. The stream can go on."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WORKER, when],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "told: a data worker" in done.stderr and "Traceback" not in done.stderr, done.stderr
