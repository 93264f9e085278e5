"""What a run survives: kill -9 at any moment, SIGTERM, Ctrl-C. `metrics.jsonl` ends as if nothing had happened.

Real processes are killed; the uninterrupted run they are compared with trains in this one.
Run: pytest tests/flow/test_kill_and_resume.py
"""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from tiny_run import ZERO_STAGES, TinyRun, command, require_same_end, start, tiny_run, train_here, wait_until

from unimodel.training.checkpoint import list_checkpoints, load_checkpoint

STEPS = tuple(f"stages.{stage}.steps=16" for stage in ("masked", "unified", "interactive"))
"""Long enough that a busy machine still stops the process well before its end."""


def uninterrupted(folder: Path, *overrides: str) -> TinyRun:
    """The same config, trained in one go."""
    run = tiny_run(folder, *STEPS, *overrides)
    train_here(run.config)
    assert run.num_lines() == run.total_steps
    return run


def interrupt(run: TinyRun, number: signal.Signals, after_lines: int) -> tuple[int, str]:
    """Starts `unimodel train`, sends a signal once that many steps are written; returns its status and stderr."""
    process = start("train", str(run.config_file))
    wait_until(process, lambda: run.num_lines() >= after_lines)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert run.num_lines() < run.total_steps, "it was stopped before its end"
    return process.returncode, errors


@pytest.mark.parametrize("zero", ZERO_STAGES)
def test_killed_run_ends_byte_for_byte_like_an_uninterrupted_one(zero: int, tmp_path: Path) -> None:
    """A3: all stages, fp32, kill -9 at a random step, the same command again."""
    run = tiny_run(tmp_path / "killed", *STEPS, f"engine.zero={zero}")
    status, _ = interrupt(run, signal.SIGKILL, random.Random(zero).randrange(2, 30))
    assert status == -signal.SIGKILL
    again = command("train", str(run.config_file))
    assert again.returncode == 0, again.stderr
    require_same_end(run, uninterrupted(tmp_path / "whole", f"engine.zero={zero}"))
    assert not list(run.run.checkpoints.glob(".*")), "no half-written checkpoint stays behind"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_run_saves_says_so_and_goes_on_exactly(number: signal.Signals, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "stopped", *STEPS, "checkpoint.every_steps=1000")
    status, errors = interrupt(run, number, after_lines=17)
    assert status == (130 if number is signal.SIGINT else 75), "75 asks a scheduler to queue it again"
    assert "stopped at step" in errors and "same command again" in errors and "Traceback" not in errors
    saved = load_checkpoint(list_checkpoints(run.run.checkpoints)[0]).position
    assert saved.step == run.num_lines(), "no step is lost"
    assert saved.stage == "unified" and not saved.stage_done
    train_here(run.config)
    require_same_end(run, uninterrupted(tmp_path / "whole", "checkpoint.every_steps=1000"))


def test_finished_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run(tmp_path, stages=("masked",))
    train_here(run.config)
    files = {path: path.read_bytes() for path in run.run.path.rglob("*") if path.is_file()}
    train_here(run.config)
    assert {path: path.read_bytes() for path in run.run.path.rglob("*") if path.is_file()} == files
    assert "already trained" in capsys.readouterr().out
