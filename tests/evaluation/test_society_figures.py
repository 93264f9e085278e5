"""Figures of several agents: exact for a model that is known, and nothing for one that ignores an agent.

Run: pytest tests/evaluation/test_society_figures.py
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, toy_episode, toy_society

from data_pipelines.sources.episode import UNKNOWN_ACTION, Episode
from unimodel.batch import PackedBatch
from unimodel.evaluation.branches import Branched, Branching, evaluate_branches, possible_actions
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.report_samples import action_label
from unimodel.evaluation.society import evaluate_society, sign_flip_p, society_rows
from unimodel.layout import AGENT_SPACING, NO_TARGET
from unimodel.vocabulary import Modality
from unimodel.world.state import WorldState

IMAGES, ACTIONS = VOCABULARY.range_of(Modality.IMAGE), VOCABULARY.range_of(Modality.ACTION)
CODES, STEPS, SURE = VOCABULARY.image_size, 6, 5.0


class Society(nn.Module):
    """A model of a world in which agent k adds `weights[k]` times its action's number to every code. It knows whose
    action is whose by the height at which it stands."""

    segment_tokens = None

    def __init__(self, weights: tuple[int, ...]) -> None:
        super().__init__()
        self.weights, self.nowhere = weights, nn.Parameter(torch.zeros(1))

    def forward(self, batch: PackedBatch) -> Tensor:
        logits = []
        for row, (ids, modality, target) in enumerate(zip(batch.input_ids, batch.modality, batch.target, strict=True)):
            frames = (modality == Modality.IMAGE).nonzero().flatten().split(9)
            between = torch.arange(len(ids))
            here = (modality == Modality.ACTION) & (between > frames[-2][-1]) & (between < frames[-1][0])
            agents = batch.position_ids[1, row, here] // AGENT_SPACING
            moved = sum(
                self.weights[int(agent)] * (int(token) - ACTIONS.start)
                for agent, token in zip(agents, ids[here], strict=True)
            )
            before = ids[frames[-2]] - IMAGES.start
            for place in (target != NO_TARGET).nonzero().flatten().tolist():
                answer = torch.zeros(VOCABULARY.size)
                answer[IMAGES.start + int((before[place - int(frames[-1][0])] + moved) % CODES)] = SURE
                logits.append(answer)
        return torch.stack(logits)


def _loaded(model: nn.Module) -> Any:
    bundle = SimpleNamespace(builder=BUILDER, vocabulary=VOCABULARY, pad_id=PAD_ID)
    stage = SimpleNamespace(world=SimpleNamespace(frames=3, sink=False), mixture=())
    return SimpleNamespace(stage="play", bundle=bundle, config=SimpleNamespace(stages={"play": stage}), backbone=model)


def _held_out(weights: tuple[int, ...], episodes: int = 8) -> HeldOut:
    tokens, real = [], []
    for seed in range(episodes):
        episode = replace(toy_society(seed, STEPS, agents=len(weights)), key=f"episode-{seed}")
        moved = (np.maximum(episode.actions, 0) * weights).sum(axis=1)
        frames = (episode.frames[:1] + np.append(0, moved.cumsum())[:, None, None]) % CODES
        tokens.append(replace(episode, frames=frames))
        nothing = np.zeros((STEPS, len(weights)), dtype=np.float32)
        real.append(
            Episode(
                episode.key, np.zeros((STEPS + 1, 8, 8, 3), np.uint8), episode.actions, nothing,
                np.zeros(STEPS, dtype=bool), np.zeros((STEPS + 1, 0), dtype=np.int64), "", ("",) * (STEPS + 1), "", 0,
                VOCABULARY.action_size,
            )
        )  # fmt: skip
    return HeldOut(real, tokens, {})


def _figures(weights: tuple[int, ...]) -> dict[str, float]:
    rows, details = evaluate_society(_loaded(Society(weights)), _held_out(weights))
    return {row.metric: row.model for row in (*rows, *details)}


def test_the_information_of_an_agent_is_that_of_its_own_action() -> None:
    """Agent 1 does nothing in this world, and agent 0 alone decides what comes."""
    found = _figures((1, 0))
    assert found["action information per frame, agent 0"] > 9 * SURE / 4
    assert found["action information per frame, agent 1"] == 0.0
    assert found["social information per frame"] == pytest.approx(found["action information per frame, agent 0"] / 2)
    assert found["action information per frame, agent 0, p-value"] < 0.05
    assert found["action information per frame, agent 1, p-value"] == 1.0
    assert found["effect of acting together per frame"] == pytest.approx(0.0, abs=1e-4)


def test_what_agents_do_together_is_not_the_sum_of_what_each_does() -> None:
    """All codes are wrong as soon as one action is: exchanging both costs no more than exchanging one."""
    found = _figures((1, 5))
    assert found["effect of acting together per frame"] < -9 * SURE / 4
    assert min(found[f"action information per frame, agent {agent}"] for agent in (0, 1)) > 9 * SURE / 4


def test_social_information_of_three_exchanges_both_others() -> None:
    found = _figures((0, 0, 1))
    told = found["action information per frame, agent 2"]
    assert told > 0 and found["action information per frame, agent 0"] == 0.0
    assert found["social information per frame"] == pytest.approx(2 * told / 3), "for two of three, agent 2 is another"


def test_one_agent_has_no_society() -> None:
    held_out = _held_out((1, 1))
    tokens = [replace(toy_episode(seed, STEPS), key=one.key) for seed, one in enumerate(held_out.tokens)]
    assert evaluate_society(_loaded(Society((1,))), HeldOut(held_out.episodes, tokens, {})) == ([], [])


def test_p_values_are_those_of_all_signs() -> None:
    assert sign_flip_p(np.zeros(5)) == 1.0
    # Of 16 sign patterns, only that of the data is as large.
    assert sign_flip_p(np.array([1.0, 2.0, 4.0, 8.0])) == pytest.approx(1 / 16, abs=0.01)
    noise = np.random.default_rng(0).normal(size=40)
    assert 0.05 < sign_flip_p(noise - noise.mean()) < 0.95
    rows, _ = society_rows([np.ones(4), np.zeros(4)], [np.zeros(4), np.ones(4)], np.ones(4), "s")
    assert [row.better for row in rows] == [True, False, True]


def test_counterfactuals_are_told_by_agent() -> None:
    def branched(agent: int, right: bool) -> Branched:
        frames = np.stack([np.full((4, 4, 3), 60 * number, np.uint8) for number in range(3)])
        classes, told = np.arange(3), np.stack([np.arange(3), np.zeros(3, int)], axis=1)
        state = Branching(
            0, WorldState(np.zeros(1, int), np.zeros((1, 2, 2), int), np.zeros((0, 2), int)), frames, classes, told,
            classes, agent,
        )  # fmt: skip
        return Branched(state, np.zeros((3, 2, 2), int), frames if right else frames[[1, 2, 0]])

    rows, details, _ = evaluate_branches([branched(0, True), branched(1, False), branched(0, True)], "s")
    assert rows[0].model == pytest.approx(2 / 3)
    by_agent = {row.metric: (row.model, row.baseline) for row in details[1:]}
    assert by_agent == {
        "counterfactual action accuracy, agent 0": (1.0, pytest.approx(1 / 3)),
        "counterfactual action accuracy, agent 1": (0.0, pytest.approx(1 / 3)),
    }


def test_one_agent_tries_while_the_others_do_what_they_did() -> None:
    episode = _held_out((1, 1, 1)).episodes[0]
    joint = possible_actions(episode, 2, 1)
    assert joint[:, 1].tolist() == [0, 1, 2, 3, 4]
    assert (joint[:, [0, 2]] == episode.actions[2, [0, 2]]).all()


def test_actions_of_several_are_named_together() -> None:
    assert action_label(np.array([1, UNKNOWN_ACTION]), ["left", "right"]) == "right + absent"
    assert action_label(np.int64(0), ["left", "right"]) == "left"
