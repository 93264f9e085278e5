"""The live agent is asked what training asked it.

Run: pytest tests/world/test_agent.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_run import make_toy_run

from data_pipelines.shards.reader import ShardReader
from unimodel.batch import pack
from unimodel.config import EPISODES
from unimodel.config_objectives import PolicyConfig
from unimodel.layout import Role
from unimodel.objectives.policy import read_world
from unimodel.tokenizers.action import REWARD_BINS, reward_values
from unimodel.tokenizers.tokenised_shards import decode_tokenised
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.training.loaded_run import LoadedRun, load_run
from unimodel.vocabulary import Modality
from unimodel.world.agent import Agent
from unimodel.world.controllers.controller import Following
from unimodel.world.state import WorldState


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    run = load_run(make_toy_run(tmp_path_factory.mktemp("agent")).path)
    with torch.no_grad():
        for parameter in run.backbone.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    return run


def longest_episode(loaded: LoadedRun) -> TokenisedEpisode:
    reader = ShardReader(loaded.run.tokens_of(EPISODES, "train"))
    episodes = [decode_tokenised(*reader.read(number)) for number in range(len(reader))]
    return max(episodes, key=lambda episode: episode.num_frames)


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_its_answers_are_those_of_the_last_moment_of_a_training_window(loaded: LoadedRun, frames: int) -> None:
    """In training its sequence also holds later and earlier questions, and the recorded answers as targets."""
    episode = longest_episode(loaded)
    bundle, vocabulary = loaded.bundle, loaded.bundle.vocabulary
    sequence = bundle.builder.interaction(episode, 0, frames, discount=0.97)
    asked = read_world(sequence, vocabulary, PolicyConfig(kind="policy"), 0, np.random.default_rng(0))
    ids = asked.input_ids.copy()
    for kind in (Modality.REWARD, Modality.DONE):
        of_world = (sequence.modality() == kind) & (sequence.role() != Role.AGENT)
        ids[of_world] = vocabulary.mask(kind)
    with torch.no_grad():
        logits = loaded.backbone(pack([[replace(asked, input_ids=ids)]], len(asked), bundle.pad_id))[-2:]
    actions, rewards = (vocabulary.range_of(kind) for kind in (Modality.ACTION, Modality.REWARD))
    expected = logits[0, actions.start : actions.stop].double().softmax(dim=-1)
    values = reward_values(np.arange(REWARD_BINS))
    worth = logits[1, rewards.start : rewards.stop].double().softmax(dim=-1) @ torch.from_numpy(values)

    agent = Agent(loaded)
    state = WorldState(episode.mission, episode.frames[:frames], episode.actions[: frames - 1])
    short = WorldState(episode.mission, episode.frames[:1], episode.actions[:0])
    np.testing.assert_allclose(agent.probabilities([short, state, short])[1], expected, atol=1e-6)
    np.testing.assert_allclose(agent.values([short, state, short])[1], worth, atol=1e-4)


def test_it_sees_no_further_back_than_in_training(loaded: LoadedRun) -> None:
    episode = longest_episode(loaded)
    state = WorldState(episode.mission, episode.frames[:6], episode.actions[:5])
    changed = state.frames.copy()
    changed[1] = (changed[1] + 1) % 7
    agent = Agent(loaded)
    np.testing.assert_array_equal(
        agent.probabilities([replace(state, frames=changed)]), agent.probabilities([state.recent(4)])
    )
    changed[2] = (changed[2] + 1) % 7
    assert (agent.probabilities([replace(state, frames=changed)]) != agent.probabilities([state])).any()


def test_who_follows_a_policy_draws_from_it() -> None:
    class Biased:
        def probabilities(self, states):
            return np.array([[0.1, 0.0, 0.9]] * len(states))

    start = WorldState(np.zeros(0, dtype=np.int64), np.zeros((1, 1, 1), dtype=np.int64), np.zeros(0, dtype=np.int64))
    following = Following(Biased())

    def acts(seed: int) -> list[int]:
        following.begin(seed)
        return [following.act(start) for _ in range(200)]

    assert acts(0) == acts(0) != acts(1)
    np.testing.assert_allclose(np.bincount(acts(0), minlength=3) / 200, [0.1, 0.0, 0.9], atol=0.06)


def test_a_stage_without_a_policy_is_refused(loaded: LoadedRun) -> None:
    with pytest.raises(ValueError, match="stage 'masked' has no policy"):
        Agent(load_run(loaded.run.path, "masked"))
