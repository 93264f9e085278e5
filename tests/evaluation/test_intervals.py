"""Intervals hold what is known of them: of a mean, of one episode, of figures without spread, of a few runs.

Run: pytest tests/evaluation/test_intervals.py
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from unimodel.evaluation.intervals import by_episode, each_over_episodes, over_episodes, over_runs, pooled_psnr, ratio


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    estimate = over_episodes(np.mean, values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert estimate.value == pytest.approx(values.mean())
    # 1,000 resamples tell an end of the interval to about 5% of its half width.
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert over_episodes(np.mean, values) == estimate


def test_episodes_are_drawn_whole() -> None:
    """Ten episodes, each all right or all wrong, are ten questions however many tokens they have."""
    right = np.array([1, 0] * 5)
    narrow = over_episodes(ratio, right * 100, np.full(10, 100))
    assert narrow == over_episodes(ratio, right, np.ones(10))
    assert narrow.low <= 0.3 and narrow.high >= 0.7


def test_one_episode_has_no_interval_and_equal_ones_have_no_width() -> None:
    alone = over_episodes(ratio, np.array([3]), np.array([4]))
    assert alone.value == 0.75 and alone.interval is None
    assert over_episodes(ratio, np.full(5, 3), np.full(5, 4)).interval == (0.75, 0.75)


def test_psnr_is_that_of_the_pooled_error() -> None:
    estimate = pooled_psnr(np.array([0.0, 255.0**2]), np.array([50, 50]))
    assert estimate.value == pytest.approx(20.0)  # one value of a hundred is off by all there is
    assert estimate.low == pytest.approx(10 * math.log10(50)) and estimate.high == math.inf
    assert pooled_psnr(np.zeros(3), np.ones(3)).value == math.inf


def test_several_figures_are_drawn_together() -> None:
    rows = np.array([[1.0, 2.0, 3.0, 6.0], [4.0, 0.0, 1.0, 1.0]])
    both = each_over_episodes(lambda chosen, axis: rows[:, chosen].mean(axis=-1), np.arange(4))
    apart = [over_episodes(lambda chosen, axis, row=row: row[chosen].mean(axis=-1), np.arange(4)) for row in rows]
    assert both == apart


def test_runs_have_students_interval() -> None:
    estimate = over_runs([1.0, 2.0, 3.0])
    assert estimate.value == 2.0
    assert estimate.high - 2.0 == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)  # t of 2 degrees of freedom
    assert over_runs([1.5]).interval is None


def test_sums_by_episode_leave_out_those_that_were_asked_nothing() -> None:
    assert by_episode(np.array([3, 0, 3, 7]), np.array([1.0, 2.0, 4.0, 8.0])).tolist() == [2.0, 5.0, 8.0]
