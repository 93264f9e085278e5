"""Drift: nothing of a perfect model, growing for one that comes apart; the distance is the textbook's.

Run: pytest tests/evaluation/test_drift.py
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from toy_rollouts import COLOURS, frozen, perfect, toy_rollout

from unimodel.config_tokenizers import ImageTokenizerConfig
from unimodel.evaluation.drift import (
    Moments,
    distances,
    doubling_frames,
    evaluate_drift,
    frame_features,
    slope,
)
from unimodel.evaluation.table import Row
from unimodel.tokenizers.image import ImageTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(ImageTokenizerConfig(patch_pixels=8, levels=(4, 4, 3), width=8)).eval()


def _worse_and_worse(real: np.ndarray, given: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(int(real.sum()))
    wrong = rng.random(real.shape) < np.linspace(0, 0.9, len(real))[:, None, None]
    return np.where(wrong, rng.integers(COLOURS, size=real.shape), real)


def _drift(model, tokenizer: ImageTokenizer, steps: int = 8) -> tuple[dict[str, Row], list[float]]:
    rows, (curve,) = evaluate_drift([toy_rollout(seed, steps, model) for seed in range(30)], tokenizer, "stage")
    return {row.metric: row for row in rows}, [estimate.value for estimate in curve.lines[0].estimates]


def test_a_perfect_model_does_not_drift(tokenizer: ImageTokenizer) -> None:
    rows, values = _drift(perfect, tokenizer)
    first = rows["feature distance, steps 1 to 2"]
    assert first.model == pytest.approx(first.ceiling) and first.better
    assert max(values) < 0.1 * first.baseline
    assert rows["drift of right tokens per frame"].model == 0.0
    assert rows["drift of PSNR per frame, dB"].model == pytest.approx(0.0, abs=1e-9)


def test_a_model_that_comes_apart_drifts(tokenizer: ImageTokenizer) -> None:
    rows, values = _drift(_worse_and_worse, tokenizer)
    assert values == sorted(values)
    growth = rows["drift of feature distance per frame"]
    assert growth.interval is not None and growth.interval[0] > 0
    doubled = rows["frames until the feature distance has doubled"].model
    assert np.interp(doubled, [1.5, 3.5, 5.5, 7.5], values) == pytest.approx(2 * values[0])
    # Wrong squares are right by luck one time in six: from all right to 1 - 0.9 * 5/6 in seven steps.
    assert rows["drift of right tokens per frame"].model == pytest.approx(-0.9 * (1 - 1 / COLOURS) / 7, rel=0.1)
    assert rows["drift of PSNR per frame, dB"].model < -1


def test_a_frozen_model_is_as_far_off_as_copying(tokenizer: ImageTokenizer) -> None:
    rows, _ = _drift(frozen, tokenizer)
    last = rows["feature distance, steps 7 to 8"]
    assert last.baseline is not None and last.model == pytest.approx(last.baseline, rel=0.2)
    assert last.ceiling is not None and last.model > 5 * last.ceiling


def test_it_is_measured_over_what_half_of_the_rollouts_reach(tokenizer: ImageTokenizer) -> None:
    lengths = [2, 3, 9, 9, 12]
    _, (curve,) = evaluate_drift([toy_rollout(i, n, perfect) for i, n in enumerate(lengths)], tokenizer, "stage")
    assert curve.steps == [2, 4, 6, 8] and curve.samples == [3] * 4  # chunks of 2 of the first 8 steps of three
    assert evaluate_drift([toy_rollout(0, 1, perfect)], tokenizer, "stage") == ([], [])


def test_distance_is_frechets() -> None:
    rng = np.random.default_rng(1)
    made, real = (rng.normal(size=(20, 6, 3)) @ rng.normal(size=(3, 3)) + rng.normal(size=3) for _ in range(2))

    def moments(features: np.ndarray) -> Moments:
        return Moments(6, features.sum(axis=1)[:, None], np.einsum("efi,efj->eij", features, features)[:, None])

    found = distances(moments(made), moments(real), np.arange(20))
    (m, c), (n, d) = ((f.reshape(-1, 3).mean(axis=0), np.cov(f.reshape(-1, 3).T, bias=True)) for f in (made, real))
    assert found == pytest.approx([((m - n) ** 2).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)])
    twice = distances(moments(made), moments(real), np.array([[0, 0, 5], [5, 0, 0]]))
    assert twice.shape == (1, 2) and twice[0, 0] == pytest.approx(twice[0, 1]), "episodes may be drawn again"


def test_features_of_a_still_world_show_no_change(tokenizer: ImageTokenizer) -> None:
    rollout = toy_rollout(0, 3, perfect)
    moving = frame_features(tokenizer, rollout.real.pictures)
    still = frame_features(tokenizer, np.repeat(rollout.given.pictures[None], 3, axis=0))
    assert moving.shape == (2, 9)
    assert np.all(still[:, 6:] == 0) and np.all(moving[:, 6:].sum(axis=1) > 0)


def test_slope_and_doubling() -> None:
    steps = np.array([1.0, 3.0, 5.0])
    assert slope(steps, np.array([2.0, 6.0, 10.0])) == pytest.approx(2.0)
    assert doubling_frames(steps, np.array([1.0, 1.5, 2.5])) == pytest.approx(4.0)
    assert doubling_frames(steps, np.array([1.0, 1.5, 1.9])) is None
