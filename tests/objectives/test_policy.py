"""The agent: asked at every moment for what came next, unseen by the world, and blind to the future.

Run: pytest tests/objectives/test_policy.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, all_logits, tiny_backbone, toy_episode, toy_film, toy_talkie

from unimodel.batch import CorruptedSequence, TokenSequence, pack
from unimodel.config import MixtureEntry, StageConfig
from unimodel.config_objectives import (
    DiffusionForcingConfig,
    InverseDynamicsConfig,
    ObjectiveConfig,
    PolicyConfig,
    TeacherForcingConfig,
)
from unimodel.layout import CLEAN, NO_TARGET, Role
from unimodel.objectives.corruption import corrupt
from unimodel.objectives.policy import ask_agent
from unimodel.tokenizers.action import agent_answers, reward_codes
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.vocabulary import Modality, Vocabulary

POLICY = PolicyConfig(kind="policy", discount=0.5, value_weight=0.25)
FORCING = DiffusionForcingConfig(kind="diffusion_forcing")
TEACHING = TeacherForcingConfig(kind="teacher_forcing", context_noise_fraction=0.4)
EPISODE = replace(toy_episode(3, steps=6), done=np.array([False] * 5 + [True]))


def window(
    episode: TokenisedEpisode, start: int = 0, frames: int = 7, discount: float | None = POLICY.discount
) -> TokenSequence:
    return BUILDER.build("interaction", episode, start, frames, discount=discount)


def asked(sequence: TokenSequence, objective: ObjectiveConfig = POLICY, seed: int = 0) -> CorruptedSequence:
    """As an entry's data is: the agent is asked by objective 1."""
    result = corrupt(sequence, VOCABULARY, objective, 1 if objective is POLICY else 0, np.random.default_rng(seed))
    return result if objective is POLICY else ask_agent(result, sequence, VOCABULARY, POLICY, 1)


def places_of_agent(result: CorruptedSequence) -> np.ndarray:
    return np.flatnonzero(np.isin(result.input_ids, (VOCABULARY.agent, VOCABULARY.value)))


@pytest.mark.parametrize("objective", [POLICY, FORCING, TEACHING], ids=lambda o: o.kind)
@pytest.mark.parametrize(("start", "frames"), [(0, 7), (0, 3), (2, 4), (6, 2)])
def test_every_moment_asks_what_was_done_next_and_what_was_got(
    start: int, frames: int, objective: ObjectiveConfig
) -> None:
    """Also the first, and the last of a window, whose next action the episode knows."""
    result = asked(window(EPISODE, start, frames), objective)
    places = places_of_agent(result).reshape(-1, 2)
    moments = range(start, min(start + frames, 7))
    assert len(places) == len(moments)
    for moment, (action, value) in zip(moments, places.tolist(), strict=True):
        assert result.input_ids[[action, value]].tolist() == [VOCABULARY.agent, VOCABULARY.value]
        if moment < 6:
            expected = VOCABULARY.ids(Modality.ACTION, EPISODE.actions[moment : moment + 1])[0]
            assert (result.target[action], result.weight[action]) == (expected, 1.0)
        else:
            assert result.target[action] == NO_TARGET and result.weight[action] == 0, "nothing was done after the end"
        to_come = sum(0.5**i * reward for i, reward in enumerate(EPISODE.rewards[moment:].tolist()))
        assert VOCABULARY.codes(Modality.REWARD, result.target[value]) == reward_codes(np.array(to_come))
        assert result.weight[value] == 0.25
    known = result.target[places.ravel()] != NO_TARGET
    assert (result.objective[places.ravel()] == np.where(known, 1, -1)).all()


def test_alone_it_asks_nothing_of_the_world() -> None:
    """The world is shown, but for half of the outcomes, which a generated one does not have."""
    sequence = window(EPISODE)
    of_world = sequence.role() != Role.AGENT
    outcomes = np.isin(sequence.modality(), (Modality.REWARD, Modality.DONE)) & of_world
    hidden = []
    for seed in range(60):
        result = asked(sequence, seed=seed)
        assert (result.target[of_world] == NO_TARGET).all() and (result.weight[of_world] == 0).all()
        shown = of_world & ~outcomes
        assert (result.input_ids[shown] == sequence.ids[shown]).all()
        hidden.append((result.input_ids[outcomes] != sequence.ids[outcomes]).mean())
    assert np.mean(hidden) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("objective", [FORCING, TEACHING], ids=lambda o: o.kind)
def test_beside_frames_these_are_asked_as_without_it(objective: ObjectiveConfig) -> None:
    with_agent, without = asked(window(EPISODE), objective), corrupt_alone(objective)
    world = np.setdiff1d(np.arange(len(with_agent)), places_of_agent(with_agent))
    for name in ("input_ids", "target", "weight", "objective", "block", "modality"):
        assert (getattr(with_agent, name)[world] == getattr(without, name)).all(), name
    assert (with_agent.position_ids[:, world] == without.position_ids).all(), "the agent takes no place"


def corrupt_alone(objective: ObjectiveConfig) -> CorruptedSequence:
    return corrupt(window(EPISODE, discount=None), VOCABULARY, objective, 0, np.random.default_rng(0))


@pytest.mark.parametrize("objective", [FORCING, TEACHING], ids=lambda o: o.kind)
def test_it_never_changes_a_logit_of_the_world(objective: ObjectiveConfig) -> None:
    backbone = tiny_backbone()
    with_agent, without = asked(window(EPISODE), objective), corrupt_alone(objective)
    world = np.setdiff1d(np.arange(len(with_agent)), places_of_agent(with_agent))
    logits = all_logits(backbone, pack([[with_agent]], len(with_agent), PAD_ID))[0, torch.from_numpy(world)]
    expected = all_logits(backbone, pack([[without]], len(without), PAD_ID))[0]
    assert (logits - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("objective", [POLICY, FORCING, TEACHING], ids=lambda o: o.kind)
def test_a_changed_future_never_changes_what_it_says(objective: ObjectiveConfig) -> None:
    backbone, result = tiny_backbone(), asked(window(EPISODE), objective)
    batch = pack([[result]], len(result), PAD_ID)
    before, images = all_logits(backbone, batch)[0], VOCABULARY.range_of(Modality.IMAGE)
    for place in places_of_agent(result).tolist():
        ids = batch.input_ids.clone()
        ids[0, place + 1 :] = torch.randint(images.start, images.stop, (len(result) - place - 1,))
        after = all_logits(backbone, replace(batch, input_ids=ids))[0]
        assert torch.equal(after[place], before[place]), place
    last = places_of_agent(result)[-1]
    ids = batch.input_ids.clone()
    clean = np.flatnonzero((result.stream == CLEAN) & (result.modality == Modality.IMAGE))[-1]
    ids[0, clean] = (ids[0, clean] + 1 - images.start) % len(images) + images.start
    assert not torch.equal(all_logits(backbone, replace(batch, input_ids=ids))[0, last], before[last]), "it reads"


@pytest.mark.parametrize("objective", [POLICY, TEACHING], ids=lambda o: o.kind)
def test_it_says_in_training_what_it_says_at_play(objective: ObjectiveConfig) -> None:
    """The question at the end of a window that goes on, and of one that ends there, whose next action nobody knows."""
    backbone = tiny_backbone()
    result = asked(window(EPISODE), objective, seed=3)
    logits = all_logits(backbone, pack([[result]], len(result), PAD_ID))[0]
    clean = result.stream == CLEAN
    for moment, places in enumerate(places_of_agent(result).reshape(-1, 2)):
        past = np.flatnonzero(clean & (np.arange(len(result)) < places[0]))
        ends = replace(EPISODE, actions=EPISODE.actions[:moment], rewards=EPISODE.rewards[:moment])
        ends = replace(ends, frames=EPISODE.frames[: moment + 1], done=EPISODE.done[:moment])
        plain = asked(window(ends))
        ids = plain.input_ids.copy()
        ids[plain.stream == CLEAN] = result.input_ids[past]
        expected = all_logits(backbone, pack([[replace(plain, input_ids=ids)]], len(plain), PAD_ID))[0, -2:]
        assert plain.input_ids[-2:].tolist() == [VOCABULARY.agent, VOCABULARY.value]
        assert plain.target[-2] == NO_TARGET
        assert (logits[torch.from_numpy(places)] - expected).abs().max() < 1e-5


def test_what_nobody_knows_is_not_asked() -> None:
    film = asked(window(toy_film(2)))
    assert len(places_of_agent(film)) == 10 and (film.target == NO_TARGET).all()
    cut = asked(window(replace(EPISODE, done=np.zeros(6, dtype=bool))))
    values = places_of_agent(cut)[1::2]
    assert (cut.target[values] != NO_TARGET).tolist() == [True] * 6 + [False], "it was cut off, who knows what came"


def test_returns_are_discounted_from_each_moment_on() -> None:
    rng = np.random.default_rng(0)
    rewards, actions = rng.normal(size=9), np.arange(9)
    for start in range(10):
        done, values = agent_answers(actions, rewards, np.ones(9), 0.9, start)
        expected = [sum(0.9 ** (i - t) * rewards[i] for i in range(t, 9)) for t in range(start, 10)]
        assert done.tolist() == list(range(start, 9)) and (values == reward_codes(np.array(expected))).all()


def test_the_world_is_numbered_as_without_it() -> None:
    for episode in (EPISODE, toy_talkie(2), toy_film(1)):
        with_agent, without = window(episode), window(episode, discount=None)
        world = with_agent.role() != Role.AGENT
        assert (with_agent.ids[world] == without.ids).all()
        assert (with_agent.position_ids()[:, world] == without.position_ids()).all()
        assert (with_agent.layout.blocks[world] == without.layout.blocks).all()
        assert (with_agent.layout.blocks[~world] == -1).all() and (with_agent.layout.streams[~world] > 0).all()
        next_action = np.flatnonzero(np.diff(world.astype(int)) == -1) + 3
        inside = next_action[next_action < len(world)]
        assert (with_agent.position_ids()[0, inside - 2] == with_agent.position_ids()[0, inside]).all()


def test_an_agent_is_refused_where_it_would_see_the_answer_or_has_no_policy() -> None:
    def stage(objective: ObjectiveConfig, **entry: str) -> StageConfig:
        made = MixtureEntry(sequence="interaction", objective="world", **entry)  # pyright: ignore[reportArgumentType]
        return StageConfig(number=3, steps=1, mixture=(made,), objectives={"world": objective, "policy": POLICY})

    assert stage(FORCING, agent="policy").skills == {"interaction": 2, "policy": 2}
    assert stage(POLICY).skills == {"policy": 2}
    with pytest.raises(ValueError, match="agent 'world' is not one of this stage's policy objectives: policy"):
        stage(FORCING, agent="world")
    with pytest.raises(ValueError, match="give the policy an entry of its own"):
        stage(InverseDynamicsConfig(kind="inverse_dynamics"), agent="policy")


def test_a_vocabulary_of_other_special_tokens_is_refused() -> None:
    """Its ids would mean something else."""
    values = VOCABULARY.to_dict()
    assert Vocabulary.from_dict(values) == VOCABULARY
    for old in ({k: v for k, v in values.items() if k != "special_size"}, values | {"special_size": 73}):
        with pytest.raises(ValueError, match="of another version of unimodel"):
            Vocabulary.from_dict(old)
