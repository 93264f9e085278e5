"""How sure a figure is: 95% intervals, over the episodes of one run or over several runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from data_pipelines.stream.randomness import keyed_generator
from unimodel.evaluation.image_metrics import decibels
from unimodel.evaluation.table import Estimate

RESAMPLES = 1000
CONFIDENCE = 0.95

Statistic = Callable[..., np.ndarray]
"""`statistic(*units, axis)` of arrays that hold one number per unit along `axis`."""


def over_episodes(statistic: Statistic, *units: np.ndarray) -> Estimate:
    """The statistic of `units` [episodes] and its percentile bootstrap (Efron 1979).

    Whole episodes are drawn again with replacement: the frames of one are no independent questions. The same units
    always give the same interval.
    """
    (estimate,) = each_over_episodes(lambda *drawn, axis: statistic(*drawn, axis=axis)[None], *units)
    return estimate


def each_over_episodes(statistic: Statistic, *units: np.ndarray) -> list[Estimate]:
    """The same of a statistic that gives several figures [figures, ...] at once."""
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # an interval that is not there is nan
        values = statistic(*units, axis=-1)
        if len(units[0]) < 2:
            return [Estimate(float(value)) for value in values]
        ends = stats.bootstrap(
            units,
            statistic,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            paired=True,
            vectorized=True,
            rng=keyed_generator("bootstrap"),
        ).confidence_interval
    return [Estimate(*map(float, parts)) for parts in zip(values, ends.low, ends.high, strict=True)]


def share_of_episodes(were: Sequence[bool]) -> Estimate:
    """How many of them, with Wilson's interval (1927): where it were all or none, a bootstrap would be sure of it."""
    ends = stats.binomtest(sum(were), len(were)).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(sum(were) / len(were), float(ends.low), float(ends.high))


def over_runs(values: Sequence[float]) -> Estimate:
    """Mean and Student's t interval: a bootstrap of the three to five runs that one has would be far too narrow."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))
    return Estimate(mean, mean - half, mean + half)


def ratio(numerators: np.ndarray, denominators: np.ndarray, axis: int = -1) -> np.ndarray:
    """Sum over sum: an accuracy from right answers and questions per episode."""
    return numerators.sum(axis=axis) / denominators.sum(axis=axis)


def pooled_psnr(squared_errors: np.ndarray, values: np.ndarray) -> Estimate:
    """PSNR in dB from summed squared errors and numbers of colour values per episode. The interval is that of the mean
    squared error, so it also stands where some frames are exactly right."""
    error = over_episodes(ratio, squared_errors, values)
    return Estimate(decibels(error.value), decibels(error.high), decibels(error.low))


def by_episode(owners: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 [episodes]: the sums of `values` [n], of which the i-th belongs to episode `owners[i]`. Episodes that own
    nothing are left out: they would be drawn, and then asked nothing."""
    present, index = np.unique(owners, return_inverse=True)
    return np.bincount(index, values, minlength=len(present))
