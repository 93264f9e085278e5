"""Steps that must not count leave no trace but a line, and too many of them send the run back.

Run: pytest tests/training/test_faults.py
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_named_state import Trainer, equal
from tiny_run import TinyRun, require_same_end, tiny_run, train_here

from unimodel.batch import PackedBatch
from unimodel.config import FaultConfig
from unimodel.errors import Stopped
from unimodel.training import stage_trainer
from unimodel.training.faults import LossWatch
from unimodel.training.step import StepReport

STEPS = "stages.masked.steps=16"


def poisoned(batch: PackedBatch) -> PackedBatch:
    return replace(batch, weight=batch.weight * math.nan)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_step_that_is_not_finite_touches_nothing(zero: int, precision: str, kind: str) -> None:
    """Weights, moments and average after it are what they were, and the next steps are as if it had not been."""
    trainer, other = (Trainer(zero, precision, kind=kind).start().train(1) for _ in range(2))
    before, batch = trainer.everything(), next(trainer.stream).batch
    assert trainer.train_on(poisoned(batch)).skipped
    assert all(equal(there, here) for there, here in zip(before, trainer.everything(), strict=True))
    next(other.stream)
    for there, here in zip(other.train(2).everything(), trainer.train(2).everything(), strict=True):
        assert equal(there, here)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_gradient_that_is_not_finite_touches_nothing(zero: int) -> None:
    """Of a loss that is finite."""
    trainer = Trainer(zero).start().train(1)
    before = trainer.everything()
    batch = next(trainer.stream).batch
    handle = next(iter(trainer.backbone.decoder.model.layers)).register_forward_hook(_poison_gradient)
    report = trainer.train_on(batch)
    handle.remove()
    assert report.skipped and math.isfinite(report.loss)
    assert all(equal(there, here) for there, here in zip(before, trainer.everything(), strict=True))


def _poison_gradient(module: Any, inputs: Any, output: Any) -> None:
    hidden = output[0] if isinstance(output, tuple) else output
    hidden.register_hook(lambda gradient: gradient * math.nan)


@pytest.mark.parametrize("zero", [0, 3])
def test_a_spike_is_skipped_and_a_usual_loss_is_not(zero: int) -> None:
    trainer = Trainer(zero).start().train(1)
    before, batch = trainer.everything(), next(trainer.stream).batch
    assert trainer.train_on(batch, loss_limit=1e-3).skipped
    assert all(equal(there, here) for there, here in zip(before, trainer.everything(), strict=True))
    report = trainer.train_on(batch, loss_limit=1e3)
    assert not report.skipped and not equal(before[0], trainer.everything()[0])


def test_limit_is_the_robust_score_of_the_last_losses() -> None:
    watch = LossWatch(FaultConfig(spike_score=6.0, spike_window_steps=5), [9.0, 1.0, 1.1, 0.9, 1.0])
    # median 1.0, median deviation 0.1
    assert watch.limit == pytest.approx(1.0 + 6 * 1.4826 * 0.1)
    watch.add(1.0)  # the 9 leaves the window; half of the losses are equal: a hundredth of the median is the least
    assert watch.limit == pytest.approx(1.0 + 6 * 0.01)
    assert LossWatch(FaultConfig(spike_score=6.0, spike_window_steps=5), [1.0] * 4).limit == math.inf
    assert LossWatch(FaultConfig(), [1.0] * 100).limit == math.inf


# --- whole runs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int, int], bool]], None]:
    """Makes the loss not finite in steps of which `when(step, how often it was tried)` says so."""

    def install(when: Callable[[int, int], bool]) -> None:
        train_step, step, tries = stage_trainer.train_step, stage_trainer.StageTrainer._step, {}
        now = [0]

        def counted(self: Any, stage_step: int) -> Any:
            now[0] = self.position.step + 1
            tries[now[0]] = tries.get(now[0], 0) + 1
            return step(self, stage_step)

        def train(engine: Any, batch: PackedBatch, *rest: Any, **more: Any) -> StepReport:
            bad = when(now[0], tries[now[0]])
            return train_step(engine, poisoned(batch) if bad else batch, *rest, **more)

        monkeypatch.setattr(stage_trainer.StageTrainer, "_step", counted)
        monkeypatch.setattr(stage_trainer, "train_step", train)

    return install


def losses(run: TinyRun) -> list[float | None]:
    return [line["loss"] for line in run.metrics()]


def test_a_skipped_step_is_written_down_with_its_samples(tmp_path: Path, poison: Any) -> None:
    run = tiny_run(tmp_path, STEPS, stages=("masked",))
    poison(lambda step, tries: step == 5)
    train_here(run.config)
    lines = run.metrics()
    assert [line["step"] for line in lines if line.get("skipped")] == [5] and lines[4]["loss"] is None
    assert all(loss is not None for number, loss in enumerate(losses(run), 1) if number != 5)
    (skipped,) = [json.loads(line) for line in run.run.skipped.read_text().splitlines()]
    assert skipped["step"] == 5 and skipped["reason"].startswith("loss nan")
    assert len(skipped["samples"]) >= 4 and all(name.startswith("episodes/") for name in skipped["samples"])


def test_a_run_that_was_stopped_after_a_skip_ends_the_same(tmp_path: Path, poison: Any) -> None:
    """The number of skips in a row and the losses of the window are told from the lines that were written."""
    settings = (STEPS, "faults.spike_score=5", "faults.spike_window_steps=4", "faults.max_skips=6")

    def bad(step: int, tries: int) -> bool:
        if step == 5 and stopping:
            stopping.clear()
            signal.raise_signal(signal.SIGTERM)
        return step in (4, 5)

    stopping: list[bool] = []
    poison(bad)
    whole, half = (tiny_run(tmp_path / name, *settings, stages=("masked",)) for name in ("whole", "half"))
    train_here(whole.config)
    stopping.append(True)
    with pytest.raises(Stopped):
        train_here(half.config)
    assert half.num_lines() == 6
    train_here(half.config)
    require_same_end(half, whole)


def test_too_many_skips_send_the_run_back_and_on_with_other_data(
    tmp_path: Path, poison: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The samples of the steps that were lost are not seen again; the number of steps stays."""
    run = tiny_run(tmp_path, STEPS, stages=("masked",))
    poison(lambda step, tries: step in (8, 9, 10) and tries == 1)
    train_here(run.config)
    assert "3 steps in a row were skipped" in capsys.readouterr().out
    lines = run.metrics()
    assert [line["step"] for line in lines] == list(range(1, 17)) and not any(line.get("skipped") for line in lines)
    skipped = [json.loads(line) for line in run.run.skipped.read_text().splitlines()]
    assert [line["step"] for line in skipped] == [8, 9, 10]
    plain = tiny_run(tmp_path / "plain", STEPS, stages=("masked",))
    poison(lambda step, tries: False)
    train_here(plain.config)
    # Saved at step 6; after steps 7 to 10, step 7 is made again, of the data of step 11.
    assert losses(run)[:6] == losses(plain)[:6]
    assert [line["tokens"] for line in lines[6:12]] == [line["tokens"] for line in plain.metrics()[10:16]]


def test_a_run_that_never_recovers_stops_with_advice(tmp_path: Path, poison: Any) -> None:
    run = tiny_run(tmp_path, STEPS, "faults.max_roll_backs=1", stages=("masked",))
    poison(lambda step, tries: step > 6)
    with pytest.raises(FloatingPointError, match=r"also after going back .*learning_rate \(now 0\.003"):
        train_here(run.config)
    assert len(run.run.skipped.read_text().splitlines()) == 6
