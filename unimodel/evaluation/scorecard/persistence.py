"""Does a world stay what it is, while nobody looks and while nobody runs it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from data_pipelines.sources import balls
from data_pipelines.sources.episode import Episode
from unimodel.evaluation.intervals import over_episodes
from unimodel.evaluation.memory import ENOUGH, GAPS_WINDOWS, Recalled
from unimodel.evaluation.rollouts import Rollout
from unimodel.evaluation.scorecard.restart import Continued, same_tokens
from unimodel.evaluation.scorecard.revisits import Answers, evolution_answers
from unimodel.evaluation.scorecard.score import (
    COPY,
    MODEL,
    WINDOW,
    Definition,
    Gate,
    Score,
    measured,
    not_measured,
)
from unimodel.evaluation.table import Estimate

WINDOWS_TO_LAST = 10
"""A memory is to outlive so many windows."""

RESTART = Definition(
    "restart fidelity",
    "persistence",
    "share of equal tokens, a world closed and opened again beside one that never was; same actions, frames drawn",
    "begun anew from the last frame",
    "never closed",
    Gate(1.0, is_sure=False),
)
REVISIT = Definition(
    "revisit accuracy, beyond the window",
    "persistence",
    "P(of the frame of a place and up to 15 of other places, the place's is nearest to the one made on coming back)",
    "chance",
    "real frames through the tokenizer",
    Gate(0.5),
)
HALF_LIFE = Definition(
    "half-life of what was seen",
    "persistence",
    "longest gap up to which (accuracy - chance) / (1 - chance) >= 0.5, as far as held-out episodes go",
    "one window",
    f"{WINDOWS_TO_LAST} windows",
    Gate(1.0),
    unit="windows",
)
EVOLUTION = Definition(
    "hidden evolution",
    "persistence",
    "of the tokens of a place that changed while it was out of sight for more than a window, the share shown as it is",
    "the window alone, which guesses that nothing is there",
    "as it is",
    Gate(0.5),
)
RECALL = Definition(
    "recall, beyond the window",
    "persistence",
    "right tokens of frames that show what was seen longer than a window ago, after real frames",
    "the model with an empty memory",
    "the frame itself",
    Gate(0.5),
)


def score_restart(worlds: Sequence[Continued]) -> Score:
    """1 for a world that goes on token by token."""
    never = [one.never_closed for one in worlds]
    same, anew = (same_tokens(some, never) for some in ([w.restarted for w in worlds], [w.begun_anew for w in worlds]))
    figures = {MODEL: over_episodes(np.mean, same), COPY: Estimate(1.0, 1.0, 1.0)}
    about = "what stays as it is goes on as it was"
    return measured(RESTART, figures, float(anew.mean()), 1.0, len(worlds), about)


def score_revisits(answers: Mapping[str, Answers], real: Answers, window: int) -> Score:
    """Of the answers of each predictor, and those of the real frames, by gaps of `window` frames."""
    found = {name: some.beyond(1) for name, some in answers.items()}
    model = found[MODEL]
    if model.total < ENOUGH:
        why = f"the agent is known to come back {model.total} times after more than {window} frames"
        return not_measured(REVISIT, f"{why}; it takes {ENOUGH}, in an environment that tells poses")
    figures = {name: some.accuracy() for name, some in found.items()}
    return measured(REVISIT, figures, model.chance, real.beyond(1).accuracy().value, model.total)


def score_half_life(answers: Mapping[str, Answers]) -> Score:
    """Of what each predictor knows by gap."""
    asked = answers[MODEL].asked.sum(axis=0)
    longest = max((end for end, n in zip(answers[MODEL].windows, asked, strict=True) if n >= ENOUGH), default=0)
    if longest < WINDOWS_TO_LAST:
        why = f"too few frames show what was seen more than {longest} windows ago"
        return not_measured(HALF_LIFE, f"{why}; it takes {WINDOWS_TO_LAST}: record longer episodes")
    figures = {name: some.beyond(1).half_life(ENOUGH) for name, some in answers.items()}
    about = f"the longest gap is {longest} windows"
    return measured(HALF_LIFE, figures, 1.0, float(WINDOWS_TO_LAST), answers[MODEL].total, about)


def score_evolution(rollouts: Mapping[str, Sequence[Rollout]], episodes: Mapping[str, Episode], window: int) -> Score:
    """In the one world of which it is known that something goes on unseen. Showing it as it was scores 0, but what has
    left is gone for whoever knows nothing: the window alone is what a memory must beat."""
    if not all(episode.environment in balls.ENVIRONMENTS for episode in episodes.values()):
        return not_measured(
            EVOLUTION, f"only of {' and '.join(balls.ENVIRONMENTS)} is it known what goes on out of sight"
        )
    found = {name: evolution_answers(some, episodes, window) for name, some in rollouts.items()}
    if found[MODEL].total < ENOUGH:
        return not_measured(EVOLUTION, "nothing has changed where the agent looks again")
    figures = {name: answers.accuracy() for name, answers in found.items()}
    return measured(EVOLUTION, figures, figures[WINDOW].value, 1.0, found[MODEL].total)


def score_recall(answers: Mapping[str, Answers]) -> Score:
    """Of what is recalled of real frames, beyond a window."""
    beyond = {name: some.beyond(1) for name, some in answers.items()}
    if beyond[MODEL].total < ENOUGH:
        return not_measured(RECALL, "no held-out episode shows again what it showed long ago")
    figures = {name: some.accuracy() for name, some in beyond.items()}
    return measured(RECALL, figures, figures[WINDOW].value, 1.0, beyond[MODEL].total)


def unchanged(recalled: Recalled, frames: np.ndarray) -> Recalled:
    """What would be right of an episode's codes [T + 1, rows, columns] if every frame were the one before."""
    same = (frames[1:] == frames[:-1]).reshape(len(frames) - 1, -1).sum(axis=1)
    return replace(recalled, right=same)


def recalled_answers(recalled: Sequence[Recalled], empty: Sequence[Recalled], window: int) -> Answers:
    """Frames by gap, each by its share of right tokens; what an empty memory gets right is what can be guessed."""
    answers = np.zeros((3, len(recalled), len(GAPS_WINDOWS)))
    ends = window * np.array(GAPS_WINDOWS)
    for number, (one, other) in enumerate(zip(recalled, empty, strict=True)):
        for begin, end, group in zip((0, *ends), ends, range(len(ends)), strict=False):
            here = (one.since > begin) & (one.since <= end)
            right, guessed = one.right[here].sum() / one.codes, other.right[here].sum() / one.codes
            answers[:, number, group] = right, guessed, here.sum()
    return Answers(GAPS_WINDOWS, *answers)
