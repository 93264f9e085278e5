"""Model-predictive control: imagine many plans, take the first actions of the best, look, and plan again.

Random shooting tries plans drawn uniformly. The cross-entropy method (Rubinstein 1999; for planning: PETS, arXiv
1805.12114) draws them from a categorical distribution per step, fits it to the best of them and draws again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from data_pipelines.stream.randomness import keyed_generator
from unimodel.world.imagination import Imagination
from unimodel.world.state import WorldState

KNOWN_STATES = 20_000
"""Whose values are kept for the next plans."""


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """How a planner searches.

    horizon_steps   length of a plan
    plans           tried per iteration
    iterations      how often the distribution is fitted to the best and drawn from; 1 is random shooting
    elite_fraction  share of the plans that it is fitted to, the best; those no better than the median are left out
    smoothing       share of the old distribution that stays in the new one
    discount        of rewards by every step that they are away: without it nothing is lost by waiting
    replan_steps    actions taken before it plans again
    """

    horizon_steps: int = 16
    plans: int = 256
    iterations: int = 4
    elite_fraction: float = 0.1
    smoothing: float = 0.2
    discount: float = 0.95
    replan_steps: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.replan_steps <= self.horizon_steps:
            raise ValueError(f"replan_steps ({self.replan_steps}) must be 1 to horizon_steps ({self.horizon_steps})")


class Judge(Protocol):
    """Whoever knows what a state is worth."""

    def values(self, states: Sequence[WorldState]) -> np.ndarray:
        """float64 [states], the discounted rewards to come."""
        ...


class Planner:
    """A controller that plans. A `judge` tells what there is to get after the end of a plan; else that is nothing."""

    def __init__(self, imagination: Imagination, settings: PlanSettings, judge: Judge | None = None) -> None:
        self._imagination, self._settings = imagination, settings
        self._judge = judge and _AskedOnce(judge)
        self.begin(0)

    def begin(self, seed: int) -> None:
        self._rng = keyed_generator("planner", seed)
        self._plan, self._taken = np.zeros(0, dtype=np.int64), 0

    def act(self, state: WorldState) -> int:
        if self._taken == min(self._settings.replan_steps, len(self._plan)):
            self._plan, self._taken = self._search(state, self._plan[self._taken :]), 0
        self._taken += 1
        return int(self._plan[self._taken - 1])

    def _search(self, state: WorldState, known: np.ndarray) -> np.ndarray:
        """int64 [horizon_steps], the best plan. The one that begins with `known`, what is left of the last one, is
        among those tried and is kept when no other is better: where no plan is worth anything, it goes on instead of
        turning about."""
        settings, num_actions = self._settings, self._imagination.num_actions
        horizon, elites = settings.horizon_steps, max(1, round(settings.elite_fraction * settings.plans))
        chances = np.full((horizon, num_actions), 1 / num_actions)
        filled = self._rng.integers(num_actions, size=horizon - len(known))
        best = np.concatenate([known, filled]).astype(np.int64)
        for _ in range(settings.iterations):
            plans = np.concatenate([best[None], _draw(chances, settings.plans, self._rng)])
            returns = plan_returns(self._imagination, state, plans, settings.discount, self._judge)
            best = plans[int(returns.argmax())]
            # Where rewards are rare most plans get nothing, and those that do are fewer than the share of elites.
            order = np.argsort(-returns, kind="stable")[:elites]
            elite = plans[order[returns[order] > np.median(returns)]]
            if not len(elite):
                continue  # nothing to tell plans apart by
            frequencies = np.stack([(elite == action).mean(axis=0) for action in range(num_actions)], axis=1)
            chances = settings.smoothing * chances + (1 - settings.smoothing) * frequencies
        return best


def plan_returns(
    imagination: Imagination, state: WorldState, plans: np.ndarray, discount: float, judge: Judge | None = None
) -> np.ndarray:
    """float64 [plans]: the expected discounted return of each of `plans` int64 [plans, steps] from `state` on."""
    different, of_plan = np.unique(plans, axis=0, return_inverse=True)
    steps = plans.shape[1]
    rolled = imagination.roll([state] * len(different), lambda step, _: different[:, step], steps)
    returns = (rolled.rewards * rolled.going[:, :-1] * discount ** np.arange(steps)).sum(axis=1)
    if judge is not None:
        last = {id(end): end for end in rolled.states[-1]}
        worth = dict(zip(last, judge.values(list(last.values())), strict=True))
        returns += discount**steps * rolled.going[:, -1] * [worth[id(end)] for end in rolled.states[-1]]
    return returns[of_plan]


class _AskedOnce:
    """A judge's values, known from the first time that they were asked for: a table's states come again and again as
    the same objects."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._known: dict[int, tuple[WorldState, float]] = {}

    def values(self, states: Sequence[WorldState]) -> np.ndarray:
        if len(self._known) > KNOWN_STATES:
            self._known.clear()
        new = [state for state in states if id(state) not in self._known]
        if new:
            self._known |= {id(s): (s, worth) for s, worth in zip(new, self._judge.values(new).tolist(), strict=True)}
        return np.array([self._known[id(state)][1] for state in states])


def _draw(chances: np.ndarray, plans: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [plans, steps] from categorical distributions [steps, actions]."""
    ends = chances.cumsum(axis=1)
    return (rng.random((plans, len(chances), 1)) * ends[:, -1:] >= ends).sum(axis=2)
