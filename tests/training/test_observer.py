"""What is watched while a run trains: exact where it claims to be, and without a trace in weights and losses.

Run: pytest tests/training/test_observer.py
"""

from __future__ import annotations

import gzip
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_named_state import Trainer
from tiny_run import TinyRun, require_same_end, tiny_run, train_here
from torch import nn

from unimodel.batch import PackedBatch
from unimodel.errors import RunError, Stopped
from unimodel.layout import NO_TARGET
from unimodel.objectives.loss import loss_sums, normalised_loss, normalisers
from unimodel.run_folder import read_json_lines
from unimodel.training.checkpoint import list_checkpoints
from unimodel.training.modality_gradients import ModalityGradients
from unimodel.training.module_check import ModuleCheck
from unimodel.training.replica_check import check_replicas, minority
from unimodel.training.stage_trainer import StageTrainer
from unimodel.vocabulary import Modality

EVERYTHING = (
    "observe.gradient_norms_every_steps=2",
    "observe.check_modules=true",
    "observe.ranks_every_steps=3",
    'observe.profile={"first_step": 4, "steps": 2, "ranks": "all"}',
    "observe.peak_tflops=0.5",
)
CPU = torch.device("cpu")


def observed(folder: Path, zero: int, precision: str) -> tuple[TinyRun, TinyRun]:
    """A run without and one with all that can be observed."""
    settings = (f"engine.zero={zero}", f"engine.precision={precision}")
    checks = () if zero == 3 else ("observe.check_replicas_every_steps=2",)
    plain = tiny_run(folder / "plain", *settings, stages=("interactive",))
    full = tiny_run(folder / "full", *settings, *EVERYTHING, *checks, stages=("interactive",))
    train_here(plain.config)
    train_here(full.config)
    return plain, full


@pytest.fixture(scope="module")
def unsharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyRun, TinyRun]:
    return observed(tmp_path_factory.mktemp("unsharded"), 0, "fp32")


def require_no_trace(plain: TinyRun, full: TinyRun) -> None:
    """Equal lines but for what was asked for, equal weights, moments and averages."""
    lines = full.metrics()
    without = [{k: v for k, v in line.items() if not k.startswith("gradient_norm/")} for line in lines]
    assert without == plain.metrics()
    assert all(any(name.startswith("gradient_norm/") for name in line) == (line["step"] % 2 == 0) for line in lines)
    ends = [list_checkpoints(run.run.checkpoints)[0] / "rank-00000.safetensors" for run in (plain, full)]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_observing_changes_no_bit(unsharded: tuple[TinyRun, TinyRun]) -> None:
    require_no_trace(*unsharded)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_observing_changes_no_bit_of_shards(zero: int, precision: str, tmp_path: Path) -> None:
    require_no_trace(*observed(tmp_path, zero, precision))


def test_a_run_leaves_its_reports(unsharded: tuple[TinyRun, TinyRun]) -> None:
    run = unsharded[1].run
    for line in read_json_lines(run.timing):
        assert line["mfu"] == pytest.approx(line["tflops_per_second_per_device"] / 0.5, abs=2e-6)
        assert line["tflops_per_second_per_device"] > 0
    assert [line["step"] for line in read_json_lines(run.ranks)] == [3, 6]
    with gzip.open(run.profile / "rank-0.json.gz") as trace:
        names = {event.get("name") for event in json.load(trace)["traceEvents"]}
    assert "aten::mm" in names and "aten::mm" in (run.profile / "rank-0.txt").read_text()


def test_a_stopped_run_writes_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are counted over the run: gradient norms come when they would have come."""
    settings = "observe.gradient_norms_every_steps=2"
    whole, half = (tiny_run(tmp_path / name, settings, stages=("masked",)) for name in ("whole", "half"))
    train_here(whole.config)
    step = StageTrainer._step

    def stopped(self: StageTrainer, stage_step: int) -> Any:
        if stage_step == 4:
            signal.raise_signal(signal.SIGTERM)
        return step(self, stage_step)

    with monkeypatch.context() as patch:
        patch.setattr(StageTrainer, "_step", stopped)
        with pytest.raises(Stopped):
            train_here(half.config)
    train_here(half.config)
    require_same_end(half, whole)


def test_replicas_are_refused_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"check_replicas_every_steps: engine\.zero=3"):
        tiny_run(tmp_path, "engine.zero=3", "observe.check_replicas_every_steps=5")


# --- gradients of modalities ----------------------------------------------------------------------------------------


def expected_norms(trainer: Trainer, batch: PackedBatch) -> dict[str, float]:
    """By one loss and one backward pass per modality, with the weights of all others at 0."""
    objectives = list(trainer.stage.objectives.values())
    normaliser, norms = normalisers(batch, objectives), {}
    for modality in Modality:
        ids = trainer.bundle.vocabulary.range_of(modality)
        here = (batch.target >= ids.start) & (batch.target < ids.stop)
        alone = replace(batch, weight=torch.where(here, batch.weight, 0.0))
        hidden = trainer.backbone.hidden(batch)
        logits = trainer.backbone.decoder.lm_head(hidden[batch.target != NO_TARGET])
        sums = loss_sums(logits, alone, trainer.bundle.vocabulary, len(objectives))
        loss = normalised_loss(sums.by_objective, normaliser, [o.coefficient for o in objectives])
        (gradient,) = torch.autograd.grad(loss, hidden)
        if here.any():
            norms[f"gradient_norm/{modality.label}"] = float(gradient.double().norm())
    return norms


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_gradient_norms_are_those_of_each_modalitys_own_loss(zero: int) -> None:
    batch = next(Trainer(0).start().stream).batch
    expected = expected_norms(Trainer(0).start(), batch)
    trainer = Trainer(zero).start()
    gradients = ModalityGradients(trainer.backbone, trainer.bundle.vocabulary, every_steps=3)
    gradients.begin(2, CPU)
    trainer.train_on(batch)
    assert gradients.norms() == {}
    trainer = Trainer(zero).start()
    gradients = ModalityGradients(trainer.backbone, trainer.bundle.vocabulary, every_steps=3)
    gradients.begin(3, CPU)
    trainer.train_on(batch)
    assert len(expected) >= 2 and gradients.norms() == pytest.approx(expected, rel=1e-4)


def test_a_batch_without_targets_has_no_norms() -> None:
    trainer = Trainer(0).start()
    gradients = ModalityGradients(trainer.backbone, trainer.bundle.vocabulary, every_steps=1)
    gradients.begin(1, CPU)
    batch = next(trainer.stream).batch
    trainer.train_on(replace(batch, target=torch.full_like(batch.target, NO_TARGET)))
    assert gradients.norms() == {}


# --- checks ---------------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Two layers of which a forward pass runs the first only, or both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.both = nn.Linear(2, 2), nn.Linear(2, 2), True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)) if self.both else self.first(x)


@pytest.mark.parametrize("stepwise", [False, True])
def test_a_module_that_nobody_runs_is_named(stepwise: bool) -> None:
    Trainer(0)  # starts the process group
    model = Branches()
    ModuleCheck(model, CPU, stepwise=stepwise)
    model(torch.ones(1, 2))
    model.both = False
    with pytest.raises(RunError, match="rank 0 has skipped second: every rank must run"):
        model(torch.ones(1, 2))


def test_a_frozen_module_may_be_left_out() -> None:
    Trainer(0)
    model = Branches()
    model.second.requires_grad_(False)
    ModuleCheck(model, CPU, stepwise=False)
    model.both = False
    model(torch.ones(1, 2))


def test_the_minority_is_who_differs_from_the_largest_group() -> None:
    assert minority([5, 5, 5]) == []
    assert minority([5, 6, 5]) == [1]
    assert minority([7, 6, 5, 5]) == [0, 1]
    assert minority([5, 6]) == [0, 1], "which of two is right cannot be told"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_replicas_pass(dtype: torch.dtype) -> None:
    Trainer(0)
    check_replicas(nn.Linear(3, 3).to(dtype), ["here"], 1)
