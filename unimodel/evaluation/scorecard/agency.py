"""Does the world answer to what is done in it, by each who acts?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from unimodel.evaluation.branches import Branched, obeyed, way_from_chance
from unimodel.evaluation.intervals import over_episodes
from unimodel.evaluation.rollouts import Rollout
from unimodel.evaluation.scorecard.score import COPY, MODEL, Definition, Gate, Score, measured, not_measured
from unimodel.evaluation.table import Estimate

BRANCHES = Definition(
    "counterfactual branches",
    "agency",
    "(accuracy - chance) / (1 - chance) of P(the real frame nearest to the one made of an action is that action's)",
    "chance",
    "real frames through the tokenizer",
    Gate(0.5),
)
INFORMATION = Definition(
    "action information, of the agent that has least",
    "agency",
    "NLL(frame | the agent's action of another episode) - NLL(frame | actions), per frame, same masks",
    "actions ignored",
    "",
    Gate(0.0),
    unit="nats",
)
RANKS = Definition(
    "imagined and real returns, rank correlation",
    "agency",
    "Spearman's rho of the return that the model expects of held-out actions in its own frames, and the real one",
    "none",
    "the real returns",
    Gate(0.5),
)


def score_branches(branched: Mapping[str, Sequence[Branched]], real: Sequence[Branched]) -> Score:
    """Of the same states for every predictor."""
    if not real:
        return not_measured(BRANCHES, "in no state drawn do two actions differ")
    figures = {name: _way(some) for name, some in branched.items()}
    return measured(BRANCHES, figures, 0.0, _way(real).value, sum(len(one.state.tried) for one in real))


def score_information(costs: Mapping[str, Sequence[np.ndarray]]) -> Score:
    """By predictor what exchanging each agent's action costs, nats [agents][episodes]."""
    if MODEL not in costs:
        return not_measured(INFORMATION, "likelihoods are those of windows, and this stage reads with a memory")
    figures = {name: _least(some) for name, some in costs.items()}
    figures[COPY] = Estimate(0.0, 0.0, 0.0)
    told = ", ".join(f"{float(cost.mean()):.2f}" for cost in costs[MODEL])
    about = f"by agent: {told} nats" if len(costs[MODEL]) > 1 else ""
    return measured(INFORMATION, figures, 0.0, None, len(costs[MODEL][0]), about)


def score_ranks(rollouts: Mapping[str, Sequence[Rollout]]) -> Score:
    """Over episodes, of the steps that are rolled out."""
    real = np.array([one.happened.total_reward for one in rollouts[MODEL]])
    if np.isnan(real).any():
        return not_measured(RANKS, "nobody told the rewards of these episodes")
    if np.unique(real).size < 2:
        return not_measured(RANKS, "all held-out episodes have the same return")
    figures = {}
    for name, some in rollouts.items():
        imagined = np.array([one.expected.total_reward for one in some])
        figures[name] = over_episodes(rank_correlation, imagined, real)
    return measured(RANKS, figures, 0.0, 1.0, len(real))


def rank_correlation(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's rho; 0 where either is constant, since it orders nothing."""
    ranks = [stats.rankdata(part, axis=axis) for part in (one, other)]
    away = [part - part.mean(axis=axis, keepdims=True) for part in ranks]
    scale = np.sqrt((away[0] ** 2).sum(axis=axis) * (away[1] ** 2).sum(axis=axis))
    together = (away[0] * away[1]).sum(axis=axis)
    return np.where(scale > 0, together / np.where(scale > 0, scale, 1.0), 0.0)


def _way(branched: Sequence[Branched]) -> Estimate:
    right = np.array([obeyed(one).sum() for one in branched])
    tried = np.array([len(one.state.tried) for one in branched])
    return over_episodes(way_from_chance, right, tried)


def _least(costs: Sequence[np.ndarray]) -> Estimate:
    """An agent that is ignored is not made up for by another."""
    return min((over_episodes(np.mean, cost) for cost in costs), key=lambda estimate: estimate.low)
