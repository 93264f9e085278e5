"""Likelihoods: exact for a model whose conditionals are known; actions that are ignored tell nothing at all.

Run: pytest tests/evaluation/test_likelihood.py
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_rollouts import frozen, paint, perfect, toy_rollout
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, toy_episode

from data_pipelines.sources.episode import Episode
from unimodel.batch import PackedBatch
from unimodel.evaluation.actions_read import read_actions
from unimodel.evaluation.branches import Branched, Branching
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.likelihood import copy_code_bits, evaluate_likelihoods, measure_likelihoods, png_bits
from unimodel.evaluation.other_actions import evaluate_other_actions, psnr_gain
from unimodel.layout import NO_TARGET
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.vocabulary import Modality
from unimodel.world.state import WorldState

IMAGES, ACTIONS = VOCABULARY.range_of(Modality.IMAGE), VOCABULARY.range_of(Modality.ACTION)
CODES = VOCABULARY.image_size
STEPS, FRAMES, SURE = 6, 3, 5.0


class World(nn.Module):
    """A model that knows its world: an action's number is added to every code of the frame before, modulo their number.

    It gives what it expects `SURE` more logits than any other code, and asked for an action it tells it the same way.
    With `obeys` False it expects action 1 whatever was done.
    """

    segment_tokens = None

    def __init__(self, obeys: bool = True) -> None:
        super().__init__()
        self.obeys, self.nowhere = obeys, nn.Parameter(torch.zeros(1))

    def forward(self, batch: PackedBatch) -> Tensor:
        logits = []
        for ids, modality, target in zip(batch.input_ids, batch.modality, batch.target, strict=True):
            frames = (modality == Modality.IMAGE).nonzero().flatten().split(9)
            action = int(ids[modality == Modality.ACTION][-1]) - ACTIONS.start
            before = ids[frames[-2]] - IMAGES.start
            for place in (target != NO_TARGET).nonzero().flatten().tolist():
                answer = torch.zeros(VOCABULARY.size)
                if modality[place] == Modality.ACTION:
                    answer[ACTIONS.start + int((ids[frames[-1]][0] - ids[frames[-2]][0]) % CODES)] = SURE
                else:
                    step = action if self.obeys else 1
                    answer[IMAGES.start + int((before[place - int(frames[-1][0])] + step) % CODES)] = SURE
                logits.append(answer)
        return torch.stack(logits)


def _loaded(model: nn.Module) -> Any:
    bundle = SimpleNamespace(builder=BUILDER, vocabulary=VOCABULARY, pad_id=PAD_ID)
    stage = SimpleNamespace(world=SimpleNamespace(frames=FRAMES, sink=False), mixture=())
    config = SimpleNamespace(stages={"play": stage})
    return SimpleNamespace(stage="play", bundle=bundle, config=config, backbone=model)


def _held_out(episodes: int = 8) -> HeldOut:
    tokens = []
    for seed in range(episodes):
        episode = toy_episode(seed, STEPS, key=f"episode-{seed}")
        frames = (episode.frames[:1] + np.append(0, episode.actions.cumsum())[:, None, None]) % CODES
        tokens.append(replace(episode, frames=frames))
    return HeldOut([_episode(one) for one in tokens], tokens, {})


def _episode(tokens: TokenisedEpisode) -> Episode:
    pictures = paint(tokens.frames % 6)
    nothing = np.zeros(STEPS, dtype=np.float32)
    return Episode(
        tokens.key, pictures, tokens.actions, nothing, nothing > 0, np.zeros((STEPS + 1, 0), dtype=np.int64),
        "", ("",) * (STEPS + 1), "", 0, VOCABULARY.action_size,
    )  # fmt: skip


EXPECTED = math.log(math.exp(SURE) + CODES - 1) - SURE
"""Nats of a code that is expected; one that is not takes SURE more."""


def test_bits_are_exact_where_conditionals_do_not_depend_on_the_mask() -> None:
    found = measure_likelihoods(_loaded(World()), _held_out())
    np.testing.assert_allclose(found.true, 9 * EXPECTED, rtol=1e-5)
    _, (bits,) = evaluate_likelihoods(found, "play")
    assert bits.model == pytest.approx(9 * EXPECTED / math.log(2), rel=1e-5)


def test_an_obeyed_action_tells_what_its_exchange_costs() -> None:
    held_out = _held_out()
    found = measure_likelihoods(_loaded(World()), held_out)
    costs = found.shuffled - found.true
    assert set(np.round(costs / (9 * SURE), 4)) == {0.0, 1.0}, "all codes are as expected or none is"
    (row,), _ = evaluate_likelihoods(found, "play")
    assert row.model == pytest.approx(costs.mean()) and row.better


def test_an_ignored_action_tells_nothing() -> None:
    found = measure_likelihoods(_loaded(World(obeys=False)), _held_out())
    np.testing.assert_array_equal(found.shuffled, found.true)  # exactly: the masks are the same
    (row,), _ = evaluate_likelihoods(found, "play")
    assert row.model == 0.0 and not row.better


def test_the_frame_asked_for_is_a_real_one_of_the_episode() -> None:
    held_out = _held_out()
    found = measure_likelihoods(_loaded(World()), held_out)
    for codes, changed, tokens in zip(found.codes, found.changed, held_out.tokens, strict=True):
        at = [i for i in range(FRAMES - 1, STEPS + 1) if np.array_equal(tokens.frames[i], codes)]
        assert any(np.array_equal(changed, tokens.frames[i] != tokens.frames[i - 1]) for i in at)


def test_copy_code_by_hand() -> None:
    codes = np.array([[[1, 2], [3, 3]], [[1, 2], [4, 3]]])
    changed = np.array([[[True, False], [False, False]], [[False, False], [True, False]]])
    # Of 8 tokens a quarter changed (0.8113 bits each), to two codes equally often (1 bit each); two frames.
    assert copy_code_bits(changed, codes) == pytest.approx((8 * 0.811278 + 2 * 1) / 2, rel=1e-5)
    assert copy_code_bits(np.zeros_like(changed), codes) == 0.0


def test_png_bits_are_those_of_the_files() -> None:
    flat, noise = (
        np.zeros((1, 16, 16, 3), np.uint8),
        np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8),
    )
    assert png_bits(flat) < 1000 < 16 * 16 * 3 * 8 < png_bits(noise)


def test_actions_are_read_from_a_state_and_the_frame_after() -> None:
    before = np.arange(9).reshape(3, 3)
    frames = np.stack([(before + action) % CODES for action in (3, 0, 4)])
    state = Branching(
        0, WorldState(np.arange(3, 6), before[None], np.zeros(0, int)), frames, np.arange(5), np.arange(5), np.arange(5)
    )
    (answers,) = read_actions(_loaded(World()), [Branched(state, frames, frames)], [frames])
    assert answers.tolist() == [3, 0, 4]


# --- other actions --------------------------------------------------------------------------------------------------


def test_other_actions_change_nothing_for_a_model_that_ignores_them() -> None:
    rollouts = [toy_rollout(seed, 5, perfect) for seed in range(4)]
    same = {rollout.key: rollout.made.pictures for rollout in rollouts}
    rows = evaluate_other_actions(rollouts, same, "stage")
    assert [(row.metric, row.model, row.better) for row in rows] == [
        ("delta-PSNR, 1 step", 0.0, False),
        ("delta-PSNR, 4 steps", 0.0, False),
    ]


def test_other_actions_cost_a_model_that_obeys() -> None:
    rollouts = [toy_rollout(seed, 5, perfect) for seed in range(4)]
    others = {one.key: toy_rollout(seed, 5, frozen).made.pictures for seed, one in enumerate(rollouts)}
    rows = evaluate_other_actions(rollouts, others, "stage")
    assert all(row.better and row.samples == 4 for row in rows)
    assert rows[1].model > rows[0].model, "the longer, the further away"
    assert psnr_gain(np.array([1.0, 1.0]), np.array([10.0, 190.0])) == pytest.approx(20.0)


def test_only_steps_that_both_have_are_compared() -> None:
    short = toy_rollout(0, 2, perfect)
    (row,) = evaluate_other_actions([short], {short.key: toy_rollout(0, 4, frozen).made.pictures}, "stage")
    assert row.metric == "delta-PSNR, 1 step" and row.samples == 1
