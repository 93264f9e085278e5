"""Learning rates, freezing and initial weights: small decisions of a stage, each with its error.

Run: pytest tests/training/test_settings.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_sequences import tiny_backbone

from unimodel.config import OptimizerConfig
from unimodel.training.initial_weights import load_by_name, read_initial_weights
from unimodel.training.optimizer import freeze
from unimodel.training.schedule import learning_rate

STEPS = 100


def rates(**changes: object) -> list[float]:
    settings = {"learning_rate": 2.0, "warmup_steps": 10, "final_fraction": 0.1, "decay_fraction": 0.2}
    config = OptimizerConfig(**(settings | changes))  # pyright: ignore[reportArgumentType]
    return [learning_rate(step, STEPS, config) for step in range(STEPS)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_warmup_is_linear_and_never_zero(schedule: str) -> None:
    assert rates(schedule=schedule)[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])


def test_cosine_falls_from_the_peak_to_its_final_fraction() -> None:
    after = rates(schedule="cosine")[10:]
    assert after[0] == 2.0 and after[45] == pytest.approx(2.0 * 0.55) and after[-1] == pytest.approx(0.2, abs=0.01)
    assert all(a > b for a, b in zip(after, after[1:], strict=False))


def test_wsd_is_stable_until_its_last_fifth_and_ends_at_its_final_fraction() -> None:
    after = rates(schedule="wsd")
    assert after[10:80] == [2.0] * 70
    assert after[89] == pytest.approx(2.0 * 0.55) and after[-1] == pytest.approx(0.2)


def test_constant_stays() -> None:
    assert set(rates(schedule="constant")[10:]) == {2.0}


def test_freezing_follows_patterns_and_a_later_stage_unfreezes() -> None:
    backbone = tiny_backbone()
    freeze(backbone, ("*embed_tokens*", "decoder.model.layers.0.*"))
    frozen = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert frozen == {n for n, _ in backbone.named_parameters() if "embed_tokens" in n or "layers.0." in n}
    freeze(backbone, ())
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"freeze: 'model\.embed\*' matches no parameter; names look like decoder\.model"
    ):
        freeze(tiny_backbone(), ("model.embed*",))


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is left to train"):
        freeze(tiny_backbone(), ("*",))


def test_weights_load_by_name_and_the_rest_is_told() -> None:
    source, target = tiny_backbone(1), tiny_backbone(2)
    weights = {name: value.detach() for name, value in source.named_parameters()}
    name = "decoder.model.layers.1.mlp.up_proj.weight"
    old = dict(target.named_parameters())[name].detach().clone()
    del weights[name]
    weights["decoder.model.layers.7.mlp.up_proj.weight"] = old
    total = len(list(target.parameters()))
    assert load_by_name(target, weights, whole=False) == f"weights by name: {total - 1} kept, 1 new, 1 dropped"
    loaded = dict(target.named_parameters())
    assert torch.equal(loaded[name], old)
    assert all(torch.equal(loaded[n], v) for n, v in source.named_parameters() if n != name)
    with pytest.raises(ValueError, match="the checkpoint is of another model"):
        load_by_name(target, weights, whole=True)


def test_initial_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    assert read_initial_weights(None) == {}
    with pytest.raises(FileNotFoundError, match="neither a run folder with checkpoints nor an export"):
        read_initial_weights(tmp_path)
