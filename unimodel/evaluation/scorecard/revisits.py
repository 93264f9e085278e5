"""Where an agent comes back to a place that it left long ago: does the model show what is there?

In rollouts, so that what is shown again was made, and remembered or forgotten, by the model itself. What has the same
pose should look the same, unless something has changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.sources.episode import Episode
from data_pipelines.sources.revisits import are_unchanged, revisits
from data_pipelines.stream.randomness import keyed_generator
from unimodel.evaluation.intervals import over_episodes
from unimodel.evaluation.memory import GAPS_WINDOWS
from unimodel.evaluation.rollouts import CONTEXT_FRAMES, Rollout
from unimodel.evaluation.table import Estimate

DISTRACTORS = 15
HALF = 0.5


@dataclass(frozen=True, slots=True)
class Answers:
    """By episode and group of gaps, float64 [episodes, groups]: how many were `right`, `by_chance` and `asked`; a group
    ends at so many `windows`."""

    windows: tuple[int, ...]
    right: np.ndarray
    by_chance: np.ndarray
    asked: np.ndarray

    def beyond(self, windows: float) -> Answers:
        """Of gaps longer than so many windows."""
        begins = (0, *self.windows[:-1])
        kept = np.array([begin >= windows for begin in begins], dtype=bool)
        ends = tuple(end for end, keep in zip(self.windows, kept, strict=True) if keep)
        return Answers(ends, self.right[:, kept], self.by_chance[:, kept], self.asked[:, kept])

    @property
    def total(self) -> int:
        return int(self.asked.sum())

    @property
    def chance(self) -> float:
        return float(self.by_chance.sum() / self.asked.sum())

    def accuracy(self) -> Estimate:
        """Right answers per question, over the episodes that ask any."""
        right, asked = self.right.sum(axis=1), self.asked.sum(axis=1)
        some = asked > 0
        if not some.any():
            return Estimate(np.nan)
        return over_episodes(lambda r, n, axis: r.sum(axis=axis) / n.sum(axis=axis), right[some], asked[some])

    def half_life(self, fewest: int) -> Estimate:
        """The longest gap, in windows, up to which at least half of what can be known is: (accuracy - chance) / (1 -
        chance) >= 0.5 in every group to there; 1 where it is in none. Groups of fewer questions say nothing."""
        kept = np.flatnonzero(self.asked.sum(axis=0) >= fewest)
        if not len(kept):
            return Estimate(np.nan)
        reached = np.array([1, *(self.windows[group] for group in kept)], dtype=np.float64)

        def of_episodes(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
            parts = (self.right, self.by_chance, self.asked)
            right, chance, asked = (part[:, kept][chosen].sum(axis=-2) for part in parts)
            lost = (right - chance) < HALF * (asked - chance)
            return reached[np.where(lost.any(axis=-1), lost.argmax(axis=-1), len(kept))]

        return over_episodes(of_episodes, np.arange(len(self.right)))


def revisit_answers(rollouts: Sequence[Rollout], episodes: Mapping[str, Episode], window: int) -> Answers:
    """RA = P(argmax over {i, 15 distractors} of PSNR(x^_j, x_k) = i): of the real frame of a place when it was left and
    those of other places in the same episode, is that of the place nearest to the frame made when it is come back to?
    Of what has not changed meanwhile. Gaps in `window` frames."""
    answers = np.zeros((3, len(rollouts), len(GAPS_WINDOWS)))
    for number, one in enumerate(rollouts):
        episode = episodes[one.key]
        frames = episode.frames[: CONTEXT_FRAMES + one.steps]
        pairs = _made_again(one, episode)
        different = frames[sorted({frame.tobytes(): time for time, frame in enumerate(frames)}.values())]
        for i, j in pairs[are_unchanged(frames, pairs)].tolist():
            others = _distractors(different, frames[i], (episode.key, i))
            if not len(others) or j - i > window * GAPS_WINDOWS[-1]:
                continue
            group = int(np.searchsorted(window * np.array(GAPS_WINDOWS), j - i))
            candidates = np.concatenate([frames[i : i + 1], others]).astype(np.float64)
            made = one.made.pictures[j - CONTEXT_FRAMES]
            errors = ((candidates - made) ** 2).mean(axis=(1, 2, 3))
            right = errors[0] < errors[1:].min()
            answers[:, number, group] += (right, 1 / len(candidates), 1)
    return Answers(GAPS_WINDOWS, *answers)


def evolution_answers(rollouts: Sequence[Rollout], episodes: Mapping[str, Episode], window: int) -> Answers:
    """HE: of the tokens of a place that have changed while nobody saw it for longer than a window, the share that the
    model shows as they are now. What stays as it was scores 0 by definition, an oracle 1."""
    answers = np.zeros((3, len(rollouts), len(GAPS_WINDOWS)))
    for number, one in enumerate(rollouts):
        real = np.concatenate([np.repeat(one.given.codes[None], CONTEXT_FRAMES, axis=0), one.real.codes])
        for i, j in _made_again(one, episodes[one.key]).tolist():
            # Of the given frames the last alone is known in tokens.
            if i < CONTEXT_FRAMES - 1 or not window < j - i <= window * GAPS_WINDOWS[-1]:
                continue
            changed = real[i] != real[j]
            right = (one.made.codes[j - CONTEXT_FRAMES] == real[j])[changed].sum()
            group = int(np.searchsorted(window * np.array(GAPS_WINDOWS), j - i))
            answers[:, number, group] += (right, 0, changed.sum())
    return Answers(GAPS_WINDOWS, *answers)


def _made_again(one: Rollout, episode: Episode) -> np.ndarray:
    """int64 [pairs, 2] frames of the episode in the same pose, the second one made by the model; not of moments that
    follow each other."""
    poses = episode.poses[: CONTEXT_FRAMES + one.steps]
    pairs = revisits(poses, 1)
    return pairs[pairs[:, 1] >= CONTEXT_FRAMES]


def _distractors(pictures: np.ndarray, shown: np.ndarray, key: tuple[str, int]) -> np.ndarray:
    """uint8 [up to 15, height, width, 3] of the `pictures` of an episode: others than the one `shown`."""
    others = pictures[(pictures != shown).any(axis=(1, 2, 3))]
    chosen = keyed_generator("revisits", *key).permutation(len(others))[:DISTRACTORS]
    return others[chosen]
