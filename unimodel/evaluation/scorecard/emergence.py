"""What comes of the rules and was never shown: new compositions, the statistics of whole episodes, what agents do to
each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from data_pipelines.stream.randomness import keyed_generator
from unimodel.evaluation.intervals import over_episodes, ratio
from unimodel.evaluation.rollouts import Rollout
from unimodel.evaluation.scorecard.score import COPY, MODEL, Definition, Gate, Score, measured, not_measured
from unimodel.evaluation.table import Estimate

SPLITS = 20
"""Of the held-out episodes in halves."""
FEWEST = 8
"""Episodes that two halves say something with."""

COMPOSITIONS = Definition(
    "held-out compositions",
    "emergence",
    "right tokens among those that differ from the given frame, in episodes whose mission no training episode had",
    "copying, 0 by definition",
    "the same in episodes whose mission is known",
    Gate(0.5),
)
MACRO = Definition(
    "macro statistics",
    "emergence",
    "W1(model, real) / W1(real, real'), halves of the episodes; mean of activity, places changed, return and length",
    "copy last",
    "1: two halves of the real episodes",
    Gate(0.5),
    higher_is_better=False,
)
SOCIAL = Definition(
    "social information",
    "emergence",
    "mean over agents of NLL(frame | its action, the others' of another episode) - NLL(frame | all actions), per frame",
    "other agents ignored",
    "",
    Gate(0.0),
    unit="nats",
)


def score_compositions(
    rollouts: Mapping[str, Sequence[Rollout]], missions: Mapping[str, str], trained: Collection[str]
) -> Score:
    """`missions` of the held-out episodes by key, and those that were `trained` on."""
    new = [one.key for one in rollouts[MODEL] if missions[one.key] not in trained]
    if not new:
        return not_measured(COMPOSITIONS, "every mission of the held-out episodes was trained on")
    if len(new) == len(rollouts[MODEL]):
        return not_measured(COMPOSITIONS, "no mission of the held-out episodes was trained on")
    held, known = set(new), {one.key for one in rollouts[MODEL]} - set(new)
    figures = {name: changed_accuracy(some, held) for name, some in rollouts.items()}
    return measured(COMPOSITIONS, figures, 0.0, changed_accuracy(rollouts[MODEL], known).value, len(new))


def changed_accuracy(rollouts: Sequence[Rollout], keys: Collection[str]) -> Estimate:
    """Right tokens among all that differ from the last given frame, in the episodes `keys`."""
    answers = []
    for one in (one for one in rollouts if one.key in keys):
        changed = one.real.codes != one.given.codes
        answers.append(((one.made.codes == one.real.codes)[changed].sum(), changed.sum()))
    right, asked = np.array(answers, dtype=np.float64).reshape(-1, 2).T
    if not (asked > 0).any():
        return Estimate(np.nan)
    return over_episodes(ratio, right[asked > 0], asked[asked > 0])


def score_macro(rollouts: Mapping[str, Sequence[Rollout]], real: Sequence[Rollout]) -> Score:
    """Of the rollouts of every predictor and the real ones; their steps are the same."""
    if len(real) < FEWEST:
        return not_measured(MACRO, f"{len(real)} episodes are too few: it takes {FEWEST}")
    truth = macro_statistics(real)
    varying = truth.std(axis=0) > 0
    if not varying.any():
        return not_measured(MACRO, "all held-out episodes are alike")
    figures = {
        name: macro_distance(macro_statistics(some)[:, varying], truth[:, varying]) for name, some in rollouts.items()
    }
    return measured(MACRO, figures, figures[COPY].value, 1.0, len(real))


def macro_statistics(rollouts: Sequence[Rollout]) -> np.ndarray:
    """float64 [episodes, 4]: tokens that change per step, share of places that ever change, the sum of rewards, and the
    steps until an end is likelier than not; where nobody told rewards and ends, these are 0."""
    statistics = []
    for one in rollouts:
        frames = np.concatenate([one.given.codes[None], one.made.codes])
        changes = frames[1:] != frames[:-1]
        ends = np.flatnonzero(one.expected.over > 0.5)
        length = ends[0] + 1 if len(ends) else one.steps
        told = not np.isnan(one.happened.rewards).any()
        outcomes = (one.expected.total_reward, float(length)) if told else (0.0, 0.0)
        statistics.append((changes.sum() / one.steps, changes.any(axis=0).mean(), *outcomes))
    return np.array(statistics, dtype=np.float64)


def macro_distance(made: np.ndarray, real: np.ndarray) -> Estimate:
    """Of statistics [episodes, n] of the same episodes. Half of the episodes as made beside the other half as they
    were, over that half as it was beside the other: no episode is beside itself. Mean over halvings and statistics."""
    scale = real.std(axis=0)
    made, real = made / scale, real / scale

    def of_episodes(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        apart, floor = (_halved(lambda half, some=some: some[half], real, chosen) for some in (made, real))
        return apart / floor

    return over_episodes(of_episodes, np.arange(len(real)))


def score_social(costs: Mapping[str, np.ndarray], agents: int) -> Score:
    """By predictor what it costs [episodes] to exchange the actions of all but one, the mean over which one."""
    if agents < 2:
        return not_measured(SOCIAL, "one agent acts in this world")
    if MODEL not in costs:
        return not_measured(SOCIAL, "likelihoods are those of windows, and this stage reads with a memory")
    figures = {name: over_episodes(np.mean, cost) for name, cost in costs.items()}
    figures[COPY] = Estimate(0.0, 0.0, 0.0)
    return measured(SOCIAL, figures, 0.0, None, len(costs[MODEL]))


def _halved(take: Callable[[np.ndarray], np.ndarray], real: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mean Wasserstein distance of `take` of one half of `chosen` [..., episodes] to `real` of the other."""
    count = chosen.shape[-1] // 2
    rng, total = keyed_generator("halves"), np.zeros(chosen.shape[:-1])
    for _ in range(SPLITS):
        order = rng.permutation(chosen.shape[-1])
        one, other = chosen[..., order[:count]], chosen[..., order[count : 2 * count]]
        # Of as many numbers each, it is the mean distance of the sorted ones.
        apart = np.abs(np.sort(take(one), axis=-2) - np.sort(real[other], axis=-2))
        total += apart.mean(axis=(-2, -1))
    return total / SPLITS
