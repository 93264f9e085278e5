"""The same global batch on one process or two, in one piece or accumulated: the same run.

Run: pytest tests/distributed/test_world_sizes.py
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tiny_run import ZERO_STAGES, TinyRun, command, start, tiny_run, train_here, wait_until

from unimodel.training.checkpoint import list_checkpoints, load_checkpoint

SETTINGS = (
    "stages.interactive.steps=20",
    "stages.interactive.optimizer.kind=adamw",
    "stages.interactive.optimizer.epsilon=0.05",
    "stages.interactive.optimizer.learning_rate=0.02",
    "stages.interactive.optimizer.gradient_clip=100.0",
    "observe.gradient_norms_every_steps=1",
)
"""One stage with two objectives; with 4 rows on 2 ranks, some rank lacks an objective in some steps. Adam with its
usual epsilon, or clipping, would hide a gradient that is a factor of ranks too small or too large."""


def interactive(folder: Path, *overrides: str) -> TinyRun:
    return tiny_run(folder, *SETTINGS, *overrides, stages=("interactive",))


def trained(folder: Path, *overrides: str) -> TinyRun:
    run = interactive(folder, *overrides)
    train_here(run.config)
    return run


def require_equal_losses(one: TinyRun, other: TinyRun) -> None:
    """All losses of all steps to 1e-5 relative, all counts exactly."""
    lines, others = one.metrics(), other.metrics()
    assert [line["step"] for line in lines] == [line["step"] for line in others] == list(range(1, 21))
    for line, there in zip(lines, others, strict=True):
        assert line.keys() == there.keys()
        for name in line:
            if name.startswith(("loss", "nats")):
                assert there[name] == pytest.approx(line[name], rel=1e-5), (line["step"], name)
            if name.startswith("gradient_norm/"):
                assert there[name] == pytest.approx(line[name], rel=1e-4), (line["step"], name)
        if line["gradient_norm"] is not None:
            assert there["gradient_norm"] == pytest.approx(line["gradient_norm"], rel=1e-4), line["step"]
        for name in ("tokens", "padding_fraction", "learning_rate"):
            assert there[name] == line[name], (line["step"], name)
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"], "it trains, so that a wrong gradient would show"


@pytest.mark.parametrize("zero", ZERO_STAGES)
def test_two_processes_train_like_one(zero: int, tmp_path: Path) -> None:
    """A4: 20 steps over gloo."""
    two = interactive(tmp_path / "two", f"engine.zero={zero}")
    result = command("train", str(two.config_file), ranks=2)
    assert result.returncode == 0, result.stderr
    require_equal_losses(trained(tmp_path / "one", f"engine.zero={zero}"), two)


@pytest.mark.parametrize("zero", [*(pytest.param(zero, marks=pytest.mark.slow) for zero in (0, 1, 2)), 3])
def test_two_processes_train_like_one_with_muon(zero: int, tmp_path: Path) -> None:
    """Shards of one matrix lie on both ranks; orthogonalised apart, they would be another update."""
    settings = (f"engine.zero={zero}", "stages.interactive.optimizer.kind=muon")
    two = interactive(tmp_path / "two", *settings)
    result = command("train", str(two.config_file), ranks=2)
    assert result.returncode == 0, result.stderr
    require_equal_losses(trained(tmp_path / "one", *settings), two)


OWN_FRAMES = (
    "stages.interactive.objectives.frames={kind: teacher_forcing}",
    "stages.interactive.batch.row_tokens=512",
    "stages.interactive.own_rollout={after: 0.6}",
)


@pytest.mark.parametrize("split", ["engine.zero=3", pytest.param("engine.sequence_parallel=2", marks=pytest.mark.slow)])
def test_two_processes_train_on_the_same_frames_of_their_own(split: str, tmp_path: Path) -> None:
    """What the model makes depends on the window, not on who has it, nor on which part of it."""
    two = interactive(tmp_path / "two", split, *OWN_FRAMES)
    result = command("train", str(two.config_file), ranks=2)
    assert result.returncode == 0, result.stderr
    require_equal_losses(trained(tmp_path / "one", *OWN_FRAMES), two)


@pytest.mark.parametrize("zero", ZERO_STAGES)
@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation_does_not_change_the_run(accumulation: int, zero: int, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", f"engine.zero={zero}")
    settings = f"stages.interactive.batch.accumulation={accumulation}"
    require_equal_losses(whole, trained(tmp_path / "parts", f"engine.zero={zero}", settings))


@pytest.mark.parametrize("zero", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_stopped_on_two_ranks_goes_on_with_one(zero: int, tmp_path: Path) -> None:
    """A scheduler's SIGTERM to the launcher; the restart has another world size and sees every sample once."""
    run = interactive(tmp_path / "moved", f"engine.zero={zero}", "checkpoint.every_steps=1000")
    process = start("train", str(run.config_file), ranks=2)
    wait_until(process, lambda: run.num_lines() >= 3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    saved = load_checkpoint(list_checkpoints(run.run.checkpoints)[0]).position
    assert 3 <= saved.step == run.num_lines() < 20, errors
    train_here(run.config)
    require_equal_losses(trained(tmp_path / "whole", f"engine.zero={zero}"), run)


def test_rows_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    run = interactive(tmp_path, "stages.interactive.batch.rows=5", "stages.interactive.batch.accumulation=2")
    message = r"batch\.rows \(5\) must be a multiple of ranks \(1\) x batch\.accumulation \(2\): use 6"
    with pytest.raises(ValueError, match=message):
        train_here(run.config)
