"""Does the world hold together by itself: over time, by its own rules, and round every corner?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from data_pipelines.sources.minigrid_reading import GridJudge
from data_pipelines.stream.randomness import keyed_generator
from unimodel.evaluation.drift import evaluate_drift
from unimodel.evaluation.intervals import over_episodes, ratio, share_of_episodes
from unimodel.evaluation.rollouts import Frames, Rollout
from unimodel.evaluation.scorecard.loops import Walked
from unimodel.evaluation.scorecard.score import MODEL, Definition, Gate, Score, measured, not_measured
from unimodel.evaluation.table import Estimate
from unimodel.tokenizers.image import ImageTokenizer

DRIFT = Definition(
    "drift",
    "coherence",
    "Frechet distance of made and real frames in the last steps, in features of the run's own image tokenizer",
    "copy last",
    "real frames through the tokenizer",
    Gate(0.5),
    higher_is_better=False,
)
RULES = Definition(
    "rule violations per 1,000 frames",
    "coherence",
    "laws of the world that its frames break: one agent, walls in their places, things that exist",
    "real tokens, each from a frame of another episode",
    "real frames through the tokenizer",
    Gate(0.9),
    higher_is_better=False,
)
LOOPS = Definition(
    "loop closure",
    "coherence",
    "P(there and back again: away, the frame is nearer to the real one there; back, nearer to the one it began with)",
    "copy last",
    "real frames through the tokenizer",
    Gate(0.5),
)


def score_drift(rollouts: Mapping[str, Sequence[Rollout]], tokenizer: ImageTokenizer) -> Score:
    """The last chunk of `evaluation/drift.py`."""
    figures, beside, samples = {}, (0.0, 0.0), 0
    for name, some in rollouts.items():
        rows, _ = evaluate_drift(some, tokenizer, "")
        if not rows:
            return not_measured(DRIFT, "the rollouts make a single step")
        last = [row for row in rows if row.metric.startswith("feature distance, steps")][-1]
        assert last.baseline is not None and last.ceiling is not None
        figures[name] = Estimate(last.model, *(last.interval or (np.nan, np.nan)))
        beside, samples = (last.baseline, last.ceiling), last.samples
    return measured(DRIFT, figures, *beside, samples)


def score_rules(
    rollouts: Mapping[str, Sequence[Rollout]],
    real: Sequence[Rollout],
    scrambled: Sequence[Rollout],
    judge: GridJudge,
) -> Score:
    """Of every frame made."""
    figures = {name: violations(some, judge) for name, some in rollouts.items()}
    baseline, floor = violations(scrambled, judge).value, violations(real, judge).value
    return measured(RULES, figures, baseline, floor, sum(one.steps for one in rollouts[MODEL]))


def violations(rollouts: Sequence[Rollout], judge: GridJudge) -> Estimate:
    """Broken laws per 1,000 frames."""
    broken = [1000.0 * sum(len(laws) for _, laws in judge.read(one.made.pictures)) for one in rollouts]
    return over_episodes(ratio, np.array(broken), np.array([one.steps for one in rollouts]))


def scrambled(rollouts: Sequence[Rollout], tokenizer: ImageTokenizer) -> list[Rollout]:
    """The same frames without any coherence: each token is that of the same place in a real frame of any episode."""
    codes = np.concatenate([one.real.codes for one in rollouts])
    rng, made = keyed_generator("scrambled"), []
    places = np.indices(codes.shape[1:])
    for one in rollouts:
        drawn = codes[rng.integers(len(codes), size=one.real.codes.shape), places[0], places[1]]
        made.append(replace(one, made=Frames(drawn, tokenizer.decode(drawn))))
    return made


def score_loops(walked: Mapping[str, Sequence[Walked]], real: Sequence[Walked]) -> Score:
    """Of the same loops for every predictor."""
    if not real:
        return not_measured(LOOPS, "no two actions, and no action repeated, lead back to where they began")
    figures = {name: share_of_episodes([one.is_closed for one in some]) for name, some in walked.items()}
    baseline = 0.0  # whoever stands still is never away
    return measured(LOOPS, figures, baseline, share_of_episodes([one.is_closed for one in real]).value, len(real))
