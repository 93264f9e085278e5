"""How good the model's own frames are, by step.

Beside each figure stands the world that stays as it is (copy the last given frame) and the ceiling: the real frame
through the tokenizer and back.

    PSNR                     10 log10(255^2 / mean squared error), pooled over the frames of a step
    SSIM                     mean structural similarity of the frames of a step
    changed token accuracy   of the tokens that differ from the last given frame, the share that is right. Copying
                             scores 0 by definition, so the best constant stands beside it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from unimodel.evaluation.curves import MODEL, Curve, Line
from unimodel.evaluation.image_metrics import squared_errors, ssim
from unimodel.evaluation.intervals import over_episodes, pooled_psnr, ratio
from unimodel.evaluation.rollouts import Rollout
from unimodel.evaluation.table import Estimate, Row

COPY = "copy the last frame"
CEILING = "real frame through the tokenizer"
CONSTANT = "best constant (copying scores 0)"
ENOUGH = 10
"""Curves end where fewer than one in so many episodes go on."""

Compare = Callable[[np.ndarray, np.ndarray], Estimate]
"""Pictures beside the real ones, uint8 [episodes, height, width, 3]."""


def evaluate_horizons(
    rollouts: Sequence[Rollout], horizons: Sequence[int], stage: str
) -> tuple[list[Row], list[Row], list[Curve]]:
    """Rows of the table (accuracy and PSNR) and of the details (SSIM) at every horizon that some rollout reaches, and
    curves over all steps that a tenth of them reaches (SSIM takes milliseconds a frame: at the horizons alone)."""
    reached = sorted({steps for steps in horizons if any(rollout.steps >= steps for rollout in rollouts)})
    lengths = sorted((rollout.steps for rollout in rollouts), reverse=True)
    every = range(1, max(reached[-1], lengths[len(lengths) // ENOUGH]) + 1)
    quality = _picture_curve("PSNR", "dB", rollouts, every, compare_psnr)
    likeness = _picture_curve("SSIM", "", rollouts, reached, compare_ssim)
    changed, questions = changed_curve(rollouts, every)
    rows: list[Row] = []
    details: list[Row] = []
    for steps in reached:
        ahead = "1 step" if steps == 1 else f"{steps} steps"
        if steps in questions:
            rows.append(_row(changed, steps, f"changed token accuracy, {ahead}", stage, questions[steps]))
        rows.append(_row(quality, steps, f"next frame PSNR, {ahead}", stage))
        details.append(_row(likeness, steps, f"next frame SSIM, {ahead}", stage))
    return rows, details, [curve for curve in (quality, likeness, changed) if curve.steps]


def compare_psnr(pictures: np.ndarray, real: np.ndarray) -> Estimate:
    """One frame per episode."""
    return pooled_psnr(squared_errors(pictures, real), np.full(len(real), real[0].size))


def compare_ssim(pictures: np.ndarray, real: np.ndarray) -> Estimate:
    """One frame per episode."""
    return over_episodes(np.mean, ssim(pictures, real))


def changed_curve(rollouts: Sequence[Rollout], steps: Sequence[int]) -> tuple[Curve, dict[int, int]]:
    """Changed token accuracy by step, and how many tokens had changed; steps at which none had are left out."""
    model, constant, questions, samples = [], [], {}, []
    for step in steps:
        some = _reaching(rollouts, step)
        real = np.stack([rollout.real.codes[step - 1] for rollout in some])
        made = np.stack([rollout.made.codes[step - 1] for rollout in some])
        changed = real != np.stack([rollout.given.codes for rollout in some])
        count = int(changed.sum())
        if count == 0:  # a coarse tokenizer may not show any change
            continue
        each = changed.sum(axis=(1, 2))
        model.append(over_episodes(ratio, (changed & (made == real)).sum(axis=(1, 2)), each))
        constant.append(Estimate(float(np.bincount(real[changed]).max() / count)))
        questions[step], samples = count, [*samples, len(some)]
    lines = [Line(MODEL, model), Line(CONSTANT, constant)]
    return Curve("Changed token accuracy", "", list(questions), samples, lines), questions


def _picture_curve(title: str, unit: str, rollouts: Sequence[Rollout], steps: Sequence[int], compare: Compare) -> Curve:
    lines = [Line(MODEL, []), Line(COPY, []), Line(CEILING, [])]
    samples = []
    for step in steps:
        some = _reaching(rollouts, step)
        real = np.stack([rollout.real.pictures[step - 1] for rollout in some])
        beside = (
            [rollout.made.pictures[step - 1] for rollout in some],
            [rollout.given.pictures for rollout in some],
            [rollout.ceiling[step - 1] for rollout in some],
        )
        for line, pictures in zip(lines, beside, strict=True):
            line.estimates.append(compare(np.stack(pictures), real))
        samples.append(len(some))
    return Curve(title, unit, list(steps), samples, lines)


def _reaching(rollouts: Sequence[Rollout], step: int) -> list[Rollout]:
    return [rollout for rollout in rollouts if rollout.steps >= step]


def _row(curve: Curve, steps: int, name: str, stage: str, samples: int | None = None) -> Row:
    at = curve.steps.index(steps)
    model, baseline, *ceiling = (line.estimates[at] for line in curve.lines)
    return Row(
        name,
        stage,
        model.value,
        baseline.value,
        curve.lines[1].name,
        samples or curve.samples[at],
        curve.unit,
        interval=model.interval,
        ceiling=ceiling[0].value if ceiling else None,
    )
