"""Planners in worlds whose rules are known.

Run: pytest tests/world/test_planner.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from unimodel.world.controllers.controller import RandomActions
from unimodel.world.controllers.planner import Planner, PlanSettings, plan_returns
from unimodel.world.imagination import Choose, Rolled
from unimodel.world.state import WorldState

START = WorldState(np.zeros(0, dtype=np.int64), np.zeros((1, 1, 1), dtype=np.int64), np.zeros(0, dtype=np.int64))


class Corridor:
    """Action 1 goes on, all others back; the episode is over with a reward `length` places ahead."""

    num_actions = 3

    def __init__(self, length: int) -> None:
        self.length, self.tried = length, 0

    def roll(self, starts: Sequence[WorldState], choose: Choose, steps: int) -> Rolled:
        self.tried += len(starts)
        actions, rewards = np.zeros((len(starts), steps), dtype=np.int64), np.zeros((len(starts), steps))
        going, states = np.ones((len(starts), steps + 1)), [list(starts)]
        for step in range(steps):
            actions[:, step] = choose(step, states[-1])
            states.append([self.step(one, action) for one, action in zip(states[-1], actions[:, step], strict=True)])
            there = np.array([int(one.frames[-1, 0, 0]) == self.length for one in states[-1]])
            rewards[:, step] = there
            going[:, step + 1] = going[:, step] * ~there
        return Rolled(states, actions, rewards, going)

    def step(self, state: WorldState, action: int) -> WorldState:
        at = int(state.frames[-1, 0, 0])
        return state.stepped(action, np.array([[at + 1 if action == 1 else max(0, at - 1)]]))


def steps_taken(planner: Planner | RandomActions, corridor: Corridor, seed: int, most: int = 40) -> int:
    planner.begin(seed)
    state = START
    for step in range(1, most + 1):
        state = corridor.step(state, planner.act(state))
        if int(state.frames[-1, 0, 0]) == corridor.length:
            return step
    return most


def test_returns_are_discounted_and_end_with_the_episode() -> None:
    plans = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_allclose(plan_returns(Corridor(2), START, plans, 0.9), [0.9, 0.9**3, 0.0, 0.9])


def test_a_judge_tells_what_comes_after_a_plan_unless_it_is_over() -> None:
    class Place:
        def values(self, states: Sequence[WorldState]) -> np.ndarray:
            return np.array([float(state.frames[-1, 0, 0]) for state in states])

    returns = plan_returns(Corridor(3), START, np.array([[1, 1], [1, 0], [0, 0]]), 0.5, Place())
    np.testing.assert_allclose(returns, [0.25 * 2, 0.0, 0.0])
    assert plan_returns(Corridor(2), START, np.array([[1, 1]]), 0.5, Place())[0] == 0.5


def test_a_judge_is_asked_once_for_a_state_that_comes_again() -> None:
    class Known(Corridor):
        """The same object at the same place, as a table has it."""

        places = [replace(START, frames=np.full((1, 1, 1), at)) for at in range(9)]

        def step(self, state: WorldState, action: int) -> WorldState:
            return self.places[int(super().step(state, action).frames[-1, 0, 0])]

    class Listening:
        asked: list[int] = []

        def values(self, states: Sequence[WorldState]) -> np.ndarray:
            places = [int(state.frames[-1, 0, 0]) for state in states]
            self.asked += places
            return np.array(places, dtype=np.float64)

    corridor = Known(99)
    planner = Planner(corridor, PlanSettings(horizon_steps=4, plans=200), Listening())
    planner.begin(0)
    assert [planner.act(corridor.places[at]) for at in (0, 1, 2)] == [1, 1, 1], "on to where more is to be had"
    assert sorted(Listening.asked) == list(range(7))


def test_the_cross_entropy_method_finds_what_random_shooting_does_not() -> None:
    """The best of as many plans: fitting finds nearly the shortest way, shooting hardly any."""
    corridor = Corridor(8)
    fitted = Planner(corridor, PlanSettings(horizon_steps=16, plans=100, iterations=8, replan_steps=16))
    shot = Planner(corridor, PlanSettings(horizon_steps=16, plans=800, iterations=1, replan_steps=16))
    lengths = [[steps_taken(planner, corridor, seed, most=16) for seed in range(20)] for planner in (fitted, shot)]
    assert np.mean(lengths[0]) + 2 < np.mean(lengths[1])


@pytest.mark.parametrize("replan_steps", [1, 4])
def test_a_planner_reaches_what_random_actions_do_not(replan_steps: int) -> None:
    corridor = Corridor(8)
    planner = Planner(corridor, PlanSettings(horizon_steps=10, plans=200, replan_steps=replan_steps))
    planned = [steps_taken(planner, corridor, seed) for seed in range(5)]
    assert max(planned) <= 20
    assert min(steps_taken(RandomActions(3), corridor, seed) for seed in range(5)) == 40


def test_planning_less_often_tries_fewer_plans() -> None:
    corridor, tried = Corridor(8), []
    for replan_steps in (1, 4):
        corridor.tried = 0
        planner = Planner(corridor, PlanSettings(horizon_steps=10, plans=50, replan_steps=replan_steps))
        steps = steps_taken(planner, corridor, 0)
        assert 0 < corridor.tried <= -(-steps // replan_steps) * 4 * 51
        tried.append(corridor.tried / steps)
    assert tried[1] < tried[0] / 2


def test_a_plan_that_is_worth_nothing_is_gone_on_with() -> None:
    """Planning again after every action, it does what it would have done without."""
    corridor = Corridor(99)
    settings = PlanSettings(horizon_steps=6, plans=20)

    def acts(replan_steps: int) -> list[int]:
        planner = Planner(corridor, replace(settings, replan_steps=replan_steps))
        planner.begin(3)
        return [planner.act(START) for _ in range(6)]

    assert acts(1) == acts(6)


def test_what_a_planner_does_follows_from_its_seed() -> None:
    corridor = Corridor(99)  # no rewards: all is chance
    planner = Planner(corridor, PlanSettings(horizon_steps=6, plans=20))

    def acts(seed: int) -> list[int]:
        planner.begin(seed)
        return [planner.act(START) for _ in range(12)]

    assert acts(1) == acts(1) != acts(2)


def test_a_horizon_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match=r"replan_steps \(9\) must be 1 to horizon_steps \(8\)"):
        PlanSettings(horizon_steps=8, replan_steps=9)
