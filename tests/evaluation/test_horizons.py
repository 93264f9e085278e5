"""Quality by step: a perfect model reaches the ceiling, a frozen one scores what copying does.

Run: pytest tests/evaluation/test_horizons.py
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from toy_rollouts import LOSS, frozen, perfect, toy_rollout

from unimodel.evaluation.horizons import evaluate_horizons
from unimodel.evaluation.rollouts import Rollout
from unimodel.evaluation.table import Row

LENGTHS = (2, 5, 5, 9)
CEILING = 10 * math.log10(255**2 / LOSS**2)


def _rollouts(model) -> list[Rollout]:
    return [toy_rollout(seed, steps, model) for seed, steps in enumerate(LENGTHS)]


def _by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.metric: row for row in rows}


def test_a_perfect_model_reaches_the_ceiling() -> None:
    rows, details, curves = evaluate_horizons(_rollouts(perfect), (1, 4), "stage")
    found = _by_name(rows + details)
    for ahead in ("1 step", "4 steps"):
        assert found[f"changed token accuracy, {ahead}"].model == 1.0
        quality, likeness = found[f"next frame PSNR, {ahead}"], found[f"next frame SSIM, {ahead}"]
        assert quality.model == quality.ceiling == pytest.approx(CEILING)
        assert likeness.model == likeness.ceiling and likeness.better
    assert all(row.better for row in rows)
    assert [curve.title for curve in curves] == ["PSNR", "SSIM", "Changed token accuracy"]


def test_a_frozen_model_gets_no_changed_token_right_and_looks_like_copying() -> None:
    rollouts = _rollouts(frozen)
    rows, *_ = evaluate_horizons(rollouts, (1, 4), "stage")
    found = _by_name(rows)
    for ahead in ("1 step", "4 steps"):
        assert found[f"changed token accuracy, {ahead}"].model == 0.0
        quality = found[f"next frame PSNR, {ahead}"]
        assert quality.baseline is not None and quality.model == pytest.approx(quality.baseline, abs=0.5)
    assert not any(row.better for row in rows if "token" in row.metric)


def test_every_horizon_rests_on_the_episodes_that_reach_it() -> None:
    rows, _, (quality, likeness, changed) = evaluate_horizons(_rollouts(perfect), (1, 4, 9, 64), "stage")
    assert {row.metric: row.samples for row in rows if "PSNR" in row.metric} == {
        "next frame PSNR, 1 step": 4,
        "next frame PSNR, 4 steps": 3,
        "next frame PSNR, 9 steps": 1,
    }
    # One of four episodes is more than a tenth.
    assert quality.steps == list(range(1, 10)) and quality.samples == [4, 4, 3, 3, 3, 1, 1, 1, 1]
    assert likeness.steps == [1, 4, 9] and changed.steps == quality.steps
    assert _by_name(rows)["next frame PSNR, 9 steps"].interval is None, "a single episode"


def test_questions_are_the_tokens_that_differ_from_the_last_given_frame() -> None:
    rollouts = _rollouts(perfect)
    rows, *_ = evaluate_horizons(rollouts, (4,), "stage")
    changed = [r.real.codes[3] != r.given.codes for r in rollouts if r.steps >= 4]
    row = _by_name(rows)["changed token accuracy, 4 steps"]
    assert row.samples == sum(int(one.sum()) for one in changed)
    codes = np.concatenate([r.real.codes[3][c] for r, c in zip(rollouts[1:], changed, strict=True)])
    assert row.baseline == pytest.approx(np.bincount(codes).max() / len(codes))


def test_a_world_that_shows_no_change_asks_nothing_of_tokens() -> None:
    still = toy_rollout(0, 3, frozen)
    unchanged = [Rollout(still.key, still.made, still.made, still.given, still.ceiling, still.happened, still.expected)]
    rows, *_ = evaluate_horizons(unchanged, (1,), "stage")
    assert [row.metric for row in rows] == ["next frame PSNR, 1 step"]
