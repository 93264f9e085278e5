"""Does the model's world come apart the longer it goes on?

Over the steps that half of the rollouts reach, and over these rollouts alone: an average over fewer and fewer episodes
would drift by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unimodel.evaluation.curves import MODEL, Curve, Line
from unimodel.evaluation.horizons import CEILING, COPY
from unimodel.evaluation.image_metrics import squared_errors
from unimodel.evaluation.intervals import each_over_episodes, over_episodes
from unimodel.evaluation.rollouts import Rollout
from unimodel.evaluation.table import Estimate, Row
from unimodel.tokenizers.image import ImageTokenizer, to_unit

CHUNK_FRAMES = 16
FEWEST_CHUNKS = 4


@dataclass(frozen=True, slots=True)
class Moments:
    """Of the `frames` frames of each chunk, the sums of features, `first` [episodes, chunks, d], and of the products of
    features, `second` [episodes, chunks, d, d]."""

    frames: int
    first: np.ndarray
    second: np.ndarray

    def of(self, episodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean [..., chunks, d] and covariance [..., chunks, d, d] of the frames of `episodes` [..., n], of which some
        may be there more than once."""
        counts = (episodes[..., None] == np.arange(len(self.first))).sum(axis=-2)
        shares = counts / (self.frames * episodes.shape[-1])
        mean = np.tensordot(shares, self.first, 1)
        return mean, np.tensordot(shares, self.second, 1) - mean[..., :, None] * mean[..., None, :]


def evaluate_drift(rollouts: Sequence[Rollout], tokenizer: ImageTokenizer, stage: str) -> tuple[list[Row], list[Curve]]:
    """Rows for the details, and the curve of the feature distance; nothing of worlds that make a single step.

    Feature distance: the Frechet distance |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) (Heusel et al. 2017, arXiv
    1706.08500, eq. 6) of the model's and the real frames of a chunk of steps, in features of the run's own frozen image
    tokenizer: nothing is downloaded, and figures of different tokenizers cannot be compared. Chunks have 16
    frames, or a quarter of the steps where these are fewer than 64. Beside it stand the frozen world and what the
    tokenizer loses.
    """
    steps = sorted((rollout.steps for rollout in rollouts), reverse=True)[(len(rollouts) - 1) // 2]
    some = [rollout for rollout in rollouts if rollout.steps >= steps]
    if steps < 2:
        return [], []
    frames = min(CHUNK_FRAMES, max(1, steps // FEWEST_CHUNKS))
    starts = range(0, steps - frames + 1, frames)
    centres = np.array([start + (frames + 1) / 2 for start in starts])
    real, *others = (_moments(features, frames) for features in _features(some, tokenizer, len(starts) * frames))
    everyone = np.arange(len(some))
    lines = [
        Line(name, each_over_episodes(lambda e, axis, made=made: distances(made, real, e), everyone))
        for name, made in zip((MODEL, COPY, CEILING), others, strict=True)
    ]
    curve = Curve("Feature distance", "", [round(c) for c in centres], [len(some)] * len(starts), lines)
    rows = [_distance_row(curve, at, starts[at], frames, stage) for at in (0, len(starts) - 1)]
    growth = over_episodes(lambda e, axis: slope(centres, distances(others[0], real, e)), everyone)
    about = f"least squares over steps 1 to {len(starts) * frames}"
    rows.append(_slope_row("feature distance per frame", growth, about, len(some), stage))
    doubled = doubling_frames(centres, np.array([estimate.value for estimate in lines[0].estimates]))
    if doubled is not None:
        name = "frames until the feature distance has doubled"
        rows.append(Row(name, stage, doubled, None, "twice that of the first chunk", len(some)))
    return rows + _quality_slopes(some, steps, stage), [curve]


def distances(made: Moments, real: Moments, episodes: np.ndarray) -> np.ndarray:
    """[chunks, ...] Frechet distances over `episodes` [..., n]."""
    (mean, covariance), (real_mean, real_covariance) = made.of(episodes), real.of(episodes)
    # The eigenvalues of a product of two covariances are real and not negative, but for rounding.
    roots = np.sqrt(np.linalg.eigvals(covariance @ real_covariance).real.clip(min=0)).sum(axis=-1)
    traces = np.trace(covariance, axis1=-2, axis2=-1) + np.trace(real_covariance, axis1=-2, axis2=-1)
    return np.moveaxis(((mean - real_mean) ** 2).sum(axis=-1) + traces - 2 * roots, -1, 0)


def slope(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Least-squares slope of `values` [n, ...] over `steps` [n]."""
    away = steps - steps.mean()
    return np.tensordot(away, values, 1) / (away**2).sum()


def doubling_frames(steps: np.ndarray, values: np.ndarray) -> float | None:
    """Where `values` [n] first reach twice the first of them, on straight lines between `steps`; None if nowhere."""
    above = np.flatnonzero(values >= 2 * values[0])
    if not len(above) or above[0] == 0:
        return None
    at = slice(above[0] - 1, above[0] + 1)
    return float(np.interp(2 * values[0], values[at], steps[at]))


def frame_features(tokenizer: ImageTokenizer, pictures: np.ndarray) -> np.ndarray:
    """float64 [n - 1, 3 * dims] of uint8 [n, height, width, 3]: of the tokenizer's latents before rounding, mean and
    deviation over the places of a frame, and mean change since the frame before, which a frozen world lacks."""
    device = next(tokenizer.parameters()).device
    with torch.no_grad():
        units = to_unit(torch.from_numpy(np.ascontiguousarray(pictures)).to(device))
        latents = torch.cat([tokenizer.encoder(some) for some in units.split(256)]).double().cpu().numpy()
    change = np.abs(np.diff(latents, axis=0)).mean(axis=(2, 3))
    return np.concatenate([latents.mean(axis=(2, 3))[1:], latents.std(axis=(2, 3))[1:], change], axis=1)


def _features(rollouts: Sequence[Rollout], tokenizer: ImageTokenizer, steps: int) -> list[np.ndarray]:
    """[episodes, steps, d] of the real, the model's, the copied and the tokenizer's frames, in deviations of real."""
    found: list[list[np.ndarray]] = [[], [], [], []]
    for rollout in rollouts:
        given = rollout.given.pictures[None]
        copied = np.repeat(given, steps, axis=0)
        for kind, pictures in zip(
            found, (rollout.real.pictures, rollout.made.pictures, copied, rollout.ceiling), strict=True
        ):
            kind.append(frame_features(tokenizer, np.concatenate([given, pictures[:steps]])))
    real, *others = (np.stack(kind) for kind in found)
    scale = real.std(axis=(0, 1))
    scale[scale == 0] = 1.0
    return [kind / scale for kind in (real, *others)]


def _moments(features: np.ndarray, frames: int) -> Moments:
    """Of [episodes, steps, d] in chunks of so many steps."""
    episodes, steps, d = features.shape
    chunks = features.reshape(episodes, steps // frames, frames, d)
    return Moments(frames, chunks.sum(axis=2), np.einsum("ecfi,ecfj->ecij", chunks, chunks))


def _distance_row(curve: Curve, at: int, start: int, frames: int, stage: str) -> Row:
    model, copied, ceiling = (line.estimates[at] for line in curve.lines)
    name = f"feature distance, steps {start + 1} to {start + frames}"
    return Row(
        name,
        stage,
        model.value,
        copied.value,
        COPY,
        curve.samples[at] * frames,
        higher_is_better=False,
        interval=model.interval,
        ceiling=ceiling.value,
    )


def _quality_slopes(rollouts: Sequence[Rollout], steps: int, stage: str) -> list[Row]:
    """By how much PSNR and the share of right tokens change per frame."""
    real = [rollout.real.pictures[:steps] for rollout in rollouts]
    errors = np.stack([squared_errors(r.made.pictures[:steps], x) for r, x in zip(rollouts, real, strict=True)])
    copies = np.stack([squared_errors(r.given.pictures[None], x) for r, x in zip(rollouts, real, strict=True)])
    same = np.stack([(r.made.codes[:steps] == r.real.codes[:steps]).mean(axis=(1, 2)) for r in rollouts])
    kept = np.stack([(r.given.codes == r.real.codes[:steps]).mean(axis=(1, 2)) for r in rollouts])
    at, everyone, values = np.arange(1, steps + 1), np.arange(len(rollouts)), real[0][0].size

    def quality(squares: np.ndarray) -> Callable[..., np.ndarray]:
        return lambda e, axis=-1: slope(at, 10 * np.log10(255.0**2 * values / _means(squares, e)))

    def accuracy(shares: np.ndarray) -> Callable[..., np.ndarray]:
        return lambda e, axis=-1: slope(at, _means(shares, e))

    rows = []
    for name, made, copied in (
        ("PSNR per frame, dB", quality(errors), quality(copies)),
        ("right tokens per frame", accuracy(same), accuracy(kept)),
    ):
        estimate = over_episodes(made, everyone)
        about = f"least squares over steps 1 to {steps}; copying: {float(copied(everyone)):.4f}"
        rows.append(_slope_row(name, estimate, about, len(rollouts), stage))
    return rows


def _means(values: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """[steps, ...] of `values` [all episodes, steps] over `episodes` [..., n]."""
    return np.moveaxis(values[episodes].mean(axis=-2), -1, 0)


def _slope_row(name: str, estimate: Estimate, about: str, samples: int, stage: str) -> Row:
    return Row(f"drift of {name}", stage, estimate.value, None, about, samples, interval=estimate.interval)
