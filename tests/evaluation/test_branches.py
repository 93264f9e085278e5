"""Counterfactual actions, and actions read from frames: what a perfect model and one that ignores actions must score.

Run: pytest tests/evaluation/test_branches.py
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from toy_rollouts import COLOURS, SIDE, paint

from data_pipelines.sources.play import Rules, play_episodes
from data_pipelines.sources.policies import load_players, scripted_policy
from unimodel.evaluation.actions_read import action_following, action_rows, count_right
from unimodel.evaluation.branches import Branched, Branching, branching_state, evaluate_branches
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.world.state import WorldState

NOTHING = np.zeros(0, dtype=np.int64)
CLASSES = ((0, 1, 0, 2), (0, 1, 0, 2), (1, 0), (0, 1, 2, 2, 2))
"""Of four states, the outcome of every action."""


def _branching(classes: Sequence[int]) -> Branching:
    """A state in which the square of an outcome's number takes the outcome's colour."""
    before = np.full((SIDE, SIDE), COLOURS - 1)
    outcomes = []
    for kind in classes:
        after = before.copy()
        after.flat[kind] = kind
        outcomes.append(after)
    tried = [list(classes).index(kind) for kind in sorted(set(classes))]
    world = WorldState(NOTHING, before[None], NOTHING)
    return Branching(0, world, paint(np.stack(outcomes)), np.array(classes), np.array(tried))


def _perfect(state: Branching) -> np.ndarray:
    return state.frames[state.tried]


def _ignoring(state: Branching) -> np.ndarray:
    """Whatever the action, what the first one does."""
    return np.repeat(state.frames[:1], len(state.tried), axis=0)


def _branched(model) -> list[Branched]:
    states = [_branching(classes) for classes in CLASSES]
    return [Branched(state, np.zeros((len(state.tried), SIDE, SIDE), dtype=int), model(state)) for state in states]


def test_a_perfect_model_obeys_always() -> None:
    (row,), (way,), groups = evaluate_branches(_branched(_perfect), "stage")
    assert row.model == 1.0 and row.interval == (1.0, 1.0) and row.better
    assert way.model == 1.0 and way.better
    assert row.samples == 3 + 3 + 2 + 3 and row.baseline == pytest.approx(4 / 11)
    assert [(group["classes"], group["states"], group["accuracy"]) for group in groups] == [(2, 1, 1.0), (3, 3, 1.0)]
    assert [group["halfway"] for group in groups] == [0.75, 0.6667]


def test_a_model_that_ignores_the_action_obeys_by_chance() -> None:
    (row,), (way,), groups = evaluate_branches(_branched(_ignoring), "stage")
    assert row.model == row.baseline and not row.better
    assert way.model == pytest.approx(0.0) and not way.better
    assert all(group["accuracy"] == group["chance"] for group in groups)


def test_halfway_is_between_chance_and_one() -> None:
    """Right in half of the states and ignorant in the others."""
    states = [_branching((0, 1)) for _ in range(10)]
    some = [Branched(state, NOTHING, (_perfect if i % 2 else _ignoring)(state)) for i, state in enumerate(states)]
    (row,), (way,), _ = evaluate_branches(some, "stage")
    assert row.model == 0.75 and way.model == pytest.approx(0.5)
    assert way.interval is not None and way.interval[0] < 0.5 < way.interval[1], "intervals are over states"


def test_a_state_has_the_real_outcomes_and_tries_one_action_of_each() -> None:
    players = load_players([{"kind": "bot", "random_action_fraction": 0.9}], scripted_policy)
    recorded = play_episodes("BabyAI-GoToLocalS8N3-v0", range(100, 120), players, Rules(12, 64))
    episode = next(one for one in recorded if one.num_steps >= 8)
    codes = np.arange(len(episode.frames))[:, None, None]
    silence = np.zeros((len(codes), 0), dtype=np.int64)
    tokens = TokenisedEpisode(episode.key, codes, silence, episode.actions, episode.rewards, episode.done, NOTHING, ())
    state = branching_state(episode, tokens, 64)
    taken = episode.actions[state.step]
    assert np.array_equal(state.frames[taken], episode.frames[state.step + 1]), "the action taken led where it did"
    assert state.world.frames[-1] == state.step and len(state.world.actions) == state.step
    assert sorted(state.classes[state.tried]) == sorted(set(state.classes)) == list(range(len(state.tried)))
    for action, kind in enumerate(state.classes):
        assert np.array_equal(state.frames[action], state.frames[state.tried[kind]])


# --- actions read from frames ---------------------------------------------------------------------------------------

TRIED = np.array([3, 3, 2, 4])


def test_frames_like_real_ones_read_like_real_ones() -> None:
    real = np.array([3, 2, 2, 4])
    (row,), (detail,) = action_rows(real, real, TRIED, "stage")
    assert row.model == 1.0 and row.baseline == 0.0 and row.better
    assert detail.model == detail.ceiling == pytest.approx(11 / 12)


def test_frames_that_tell_nothing_of_the_action_score_zero() -> None:
    (row,), (detail,) = action_rows(np.ones(4, dtype=int), TRIED, TRIED, "stage")
    assert row.model == 0.0 and not row.better
    assert detail.model == detail.baseline == pytest.approx(4 / 12)


def test_it_is_normalised_by_chance_and_by_what_real_frames_tell() -> None:
    assert action_following(np.array([2, 1]), np.array([2, 2]), np.array([2, 2])) == 0.5


def test_a_reader_that_reads_nothing_judges_nobody() -> None:
    rows, details = action_rows(np.ones(4, dtype=int), np.ones(4, dtype=int), TRIED, "stage")
    assert rows == [] and len(details) == 1


def test_an_answer_counts_by_its_class() -> None:
    one = Branched(_branching((0, 1, 0, 2)), NOTHING, NOTHING)
    assert count_right([one], [np.array([2, 1, 0])]).tolist() == [2]  # action 2 does what action 0 does
