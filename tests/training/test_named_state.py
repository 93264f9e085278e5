"""Weights, moments and averages by name: the same under every ZeRO stage, and untouched where frozen.

Run: pytest tests/training/test_named_state.py
"""

from __future__ import annotations

import functools
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TinyRun, tiny_run, train_here

from data_pipelines.stream.plan import StreamState
from unimodel.backbone.model import Backbone, build_decoder
from unimodel.batch import PackedBatch
from unimodel.config import EPISODES, EngineConfig
from unimodel.tokenizers.prepare import load_run_bundle
from unimodel.training.checkpoint import stage_checkpoint
from unimodel.training.data import StageData
from unimodel.training.engine import build_engine, start_process_group
from unimodel.training.initial_weights import load_by_name
from unimodel.training.named_state import MOMENTS, NamedState
from unimodel.training.optimizer import freeze
from unimodel.training.step import StepReport, train_step
from unimodel.training.stored_state import AVERAGE, WEIGHT, StoredState, rank_file, write_held

Tensors = dict[str, torch.Tensor]
EMBEDDING = "decoder.model.embed_tokens.weight"


@functools.cache
def shared_run() -> TinyRun:
    return tiny_run(Path(tempfile.mkdtemp(prefix="unimodel-tests-")), stages=("interactive",))


@dataclass
class Trainer:
    """One engine on the tiny model, and the batches that it sees."""

    zero: int
    precision: str = "fp32"
    frozen: tuple[str, ...] = ()
    weights: Tensors = field(default_factory=dict)
    kind: str = "adamw"
    num_layers: int = 2

    def __post_init__(self) -> None:
        run = shared_run()
        stage = run.config.stages["interactive"]
        self.stage = stage.model_copy(update={"optimizer": stage.optimizer.model_copy(update={"kind": self.kind})})
        self.bundle = load_run_bundle(run.run)
        settings = EngineConfig(zero=self.zero, precision=self.precision)  # pyright: ignore[reportArgumentType]
        device = start_process_group(settings)
        sizes = run.config.backbone.model_copy(update={"num_layers": self.num_layers})
        self.backbone = Backbone(build_decoder(sizes, self.bundle.vocabulary, 0))
        load_by_name(self.backbone, self.weights, whole=bool(self.weights) and self.num_layers == 2)
        freeze(self.backbone, self.frozen)
        frozen = {name: p.detach().clone() for name, p in self.backbone.named_parameters() if not p.requires_grad}
        self.engine: Any = build_engine(self.backbone, settings, self.stage, device)
        self.state = NamedState(self.engine, frozen)
        data = StageData(
            {EPISODES: run.run.tokens_of(EPISODES, "train")}, self.bundle.builder, "interactive", self.stage, 0
        )
        self.stream = data.stream(StreamState(), self.bundle.pad_id)

    def start(self, step: int = 0) -> Trainer:
        self.state.initialise(step, with_average=True)
        return self

    def train(self, steps: int = 1) -> Trainer:
        for _ in range(steps):
            self.train_on(next(self.stream).batch)
        return self

    def train_on(self, batch: PackedBatch, loss_limit: float = math.inf) -> StepReport:
        report = train_step(self.engine, batch, self.stage, self.bundle.vocabulary, loss_limit=loss_limit)
        if not report.skipped:
            self.state.update_average(0.5)
        return report

    def everything(self) -> tuple[Tensors, Tensors, Tensors]:
        """Weights, moments and average: all that a checkpoint has."""
        stored = self.stored()
        weights, average = ({n: stored.whole(kind, n) for n in stored.names(kind)} for kind in (WEIGHT, AVERAGE))
        moments = {f"{n}.{kind}": stored.whole(kind, n) for kind in MOMENTS for n in stored.names(kind)}
        return weights, moments, average

    def stored(self) -> StoredState:
        """Written by this engine, on disk."""
        folder = Path(tempfile.mkdtemp(dir=shared_run().config_file.parent))
        write_held(folder / rank_file(0), self.state.held())
        return StoredState(folder)

    def restore(self, stored: StoredState) -> list[str]:
        """As a resumed run does; returns the moments that are not there."""
        self.state.set_weights(stored)
        self.state.set_average(stored, AVERAGE)
        return self.state.set_moments(stored)


@functools.cache
def trained(zero: int, steps: int) -> tuple[tuple[Tensors, Tensors, Tensors], StoredState]:
    trainer = Trainer(zero).start().train(steps)
    return trainer.everything(), trainer.stored()


def after_three_steps(zero: int) -> tuple[Tensors, Tensors, Tensors]:
    return trained(zero, 3)[0]


def equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def furthest(one: Tensors, other: Tensors) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("load", [0, 1, 2, 3])
@pytest.mark.parametrize("save", [0, 1, 2, 3])
def test_state_saved_on_one_zero_stage_loads_on_another(save: int, load: int, precision: str) -> None:
    """Bit-equal at once, also on an engine that rounds its copy to bf16; in fp32 the next step goes on from it (to
    1e-5: ZeRO stages sum in different orders)."""
    weights, moments, average = after_three_steps(save)
    trainer = Trainer(load, precision, weights=weights).start(step=3)
    assert precision == "fp32" or not equal(trainer.everything()[0], weights), (
        "the engine was built from rounded values"
    )
    assert trainer.restore(trained(save, 3)[1]) == []
    for kind, (there, here) in enumerate(zip((weights, moments, average), trainer.everything(), strict=True)):
        assert equal(there, here), ("weights", "moments", "average")[kind]
    if precision == "fp32":
        for _ in range(3):
            next(trainer.stream)
        trainer.train()
        for there, here in zip(after_four_steps(save), trainer.everything(), strict=True):
            assert furthest(there, here) < 1e-5


def after_four_steps(zero: int) -> tuple[Tensors, Tensors, Tensors]:
    return trained(zero, 4)[0]


def test_weights_moments_and_average_move_when_training() -> None:
    """What the other tests compare is alive: all three change in every step."""
    for there, here in zip(after_three_steps(0), after_four_steps(0), strict=True):
        assert all(not torch.equal(there[name], here[name]) for name in there if "norm" not in name)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_average_is_the_exponential_moving_average_of_the_weights(zero: int) -> None:
    trainer = Trainer(zero).start()
    expected = trainer.everything()[0]
    for _ in range(3):
        trainer.train()
        now = trainer.everything()[0]
        expected = {name: 0.5 * value + 0.5 * now[name] for name, value in expected.items()}
    assert furthest(expected, trainer.everything()[2]) < 1e-6


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_frozen_weights_stay_bit_equal_and_have_no_optimizer_state(zero: int, precision: str) -> None:
    trainer = Trainer(zero, precision, frozen=("*embed_tokens*",)).start()
    before = trainer.everything()[0]
    after, moments, _ = trainer.train(2).everything()
    assert torch.equal(before[EMBEDDING], after[EMBEDDING])
    assert not any(name.startswith(EMBEDDING) for name in moments)
    trained = [name for name in before if name != EMBEDDING and "norm" not in name]
    assert all(not torch.equal(before[name], after[name]) for name in trained) and len(trained) > 10


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_optimizer_state_that_is_not_there_is_named(zero: int) -> None:
    donor = Trainer(0).start().train(3)
    fewer = [h for h in donor.state.held() if h.kind not in MOMENTS or "layers.1.mlp.up_proj" not in h.name]
    folder = Path(tempfile.mkdtemp(dir=shared_run().config_file.parent))
    write_held(folder / rank_file(0), fewer)
    trainer = Trainer(zero, frozen=("*embed_tokens*",)).start()
    missing = trainer.restore(StoredState(folder))
    assert sorted(missing) == [f"decoder.model.layers.1.mlp.up_proj.weight.{key}" for key in MOMENTS]


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_stages_hand_over_weights_by_name_and_freeze(zero: int, tmp_path: Path) -> None:
    """A whole run: the second stage freezes the embedding and one layer, the third trains all again."""
    freeze_two = 'stages.unified.freeze=["decoder.model.embed_tokens.*", "decoder.model.layers.0.*"]'
    run = tiny_run(tmp_path, f"engine.zero={zero}", freeze_two)
    train_here(run.config)
    first, second, third = (stage_checkpoint(run.run.checkpoints, name).state() for name in run.config.stages)
    frozen = [name for name in first.weights() if name == EMBEDDING or ".layers.0." in name]
    trained = [name for name in first.weights() if ".layers.1." in name and "norm" not in name]
    assert len(frozen) > 5 and len(trained) > 5
    for name in frozen:
        assert torch.equal(first.weights()[name], second.weights()[name]), name
        assert torch.equal(second.weights()[name], second.weights(averaged=True)[name]), "the average has them too"
    for name in trained:
        assert not torch.equal(first.weights()[name], second.weights()[name]), name
    for name in [n for n in (*frozen, *trained) if "norm" not in n]:
        assert not torch.equal(second.weights()[name], third.weights()[name]), f"{name} trains again"
