"""Does the model know what a step is worth and when an episode ends, and how sure it may be?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from unimodel.evaluation.intervals import over_episodes, ratio
from unimodel.evaluation.predictions import ask, predict, window, world_entry
from unimodel.evaluation.rollouts import Outcomes, Rollout
from unimodel.evaluation.table import Estimate, Row
from unimodel.tokenizers.action import REWARD_BINS, reward_values
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.training.loaded_run import LoadedRun
from unimodel.vocabulary import Modality
from unimodel.world.window import OUTCOMES

BINS = 10
Pair = tuple[Outcomes, Outcomes]
"""What was expected of the steps of an episode, and what happened."""


def pair_after_own_frames(rollouts: Sequence[Rollout]) -> list[Pair]:
    """Of the model's rollouts: each expectation comes after the model's own frame."""
    return [(rollout.expected, rollout.happened) for rollout in rollouts]


def pair_after_real_frames(loaded: LoadedRun, episodes: Sequence[TokenisedEpisode]) -> list[Pair]:
    """Of every step of the episodes whose outcomes somebody told, after its real frame.

    Windows as the model was trained on follow each other and share a frame; in each, all outcomes are hidden and asked
    for at once. That is what `Worlds.outcomes` gives after the same frames, for half of its tokens.
    """
    entry = world_entry(loaded)
    episodes = [episode for episode in episodes if not np.isnan(episode.rewards).any()]
    vocabulary, asked, owners, kinds = loaded.bundle.vocabulary, [], [], []
    for number, episode in enumerate(episodes):
        for start in range(0, episode.num_frames - 1, entry.frames - 1):
            sequence = window(loaded.bundle.builder, episode, start, entry.frames, has_sink=entry.sink)
            outcomes = np.isin(sequence.modality(), OUTCOMES)
            asked.append(ask(sequence, outcomes, vocabulary))
            owners.append(number)
            kinds.append(sequence.modality()[outcomes])
    rewards: list[list[np.ndarray]] = [[] for _ in episodes]
    over: list[list[np.ndarray]] = [[] for _ in episodes]
    of_reward, of_done = vocabulary.range_of(Modality.REWARD), vocabulary.range_of(Modality.DONE)
    values = reward_values(np.arange(REWARD_BINS))
    for number, kind, logits in zip(owners, kinds, predict(loaded, asked), strict=True):
        reward = logits[kind == Modality.REWARD, of_reward.start : of_reward.stop]
        done = logits[kind == Modality.DONE, of_done.start : of_done.stop]
        rewards[number].append(reward.softmax(dim=-1).double().numpy() @ values)
        over[number].append(done.softmax(dim=-1)[:, 1].double().numpy())
    return [
        (Outcomes(np.concatenate(r), np.concatenate(o)), Outcomes(episode.rewards, episode.done))
        for r, o, episode in zip(rewards, over, episodes, strict=True)
        if r
    ]


def evaluate_calibration(pairs: Sequence[Pair], after: str, stage: str) -> list[Row]:
    """Rows for the details, after "real" or the model's "own" frames; none of outcomes that nobody told or that never
    vary.

    With p the probability of the end of an episode, y whether it ended and r the expected reward:

        Brier score    mean (p - y)^2, beside the mean rate as a constant answer
        reward error   root of the mean (r - reward)^2, beside the best constant
        ECE            sum over 10 bins of p of share * |mean p - mean y| (Guo et al. 2017, arXiv 1706.04599, eq. 3);
                       no baseline, since a constant has no such error and yet says nothing
    """
    pairs = _told(pairs)
    steps = np.array([len(happened.over) for _, happened in pairs])
    rows: list[Row] = []
    over = np.concatenate([happened.over for _, happened in pairs] or [np.zeros(0)])
    if over.size and over.min() != over.max():
        score = over_episodes(ratio, _squares([(expected.over, real.over) for expected, real in pairs]), steps)
        rate = float(over.mean())
        rows.append(_row("episode end Brier score", after, stage, score, rate * (1 - rate), over.size, "mean rate"))
        error = calibration_error(pairs)
        rows.append(_row("episode end calibration error", after, stage, error, None, over.size, "ECE, 10 bins"))
    rewards = np.concatenate([happened.rewards for _, happened in pairs] or [np.zeros(0)])
    if rewards.size and rewards.min() != rewards.max():
        squares = over_episodes(ratio, _squares([(expected.rewards, real.rewards) for expected, real in pairs]), steps)
        error = Estimate(*(math.sqrt(value) for value in (squares.value, squares.low, squares.high)))
        constant = float(rewards.std())
        rows.append(_row("reward error", after, stage, error, constant, rewards.size, "best constant"))
    return rows


def reliability(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Of every tenth of the probability of the end: how many steps, the mean that was said and the share that ended."""
    steps, said, ended = (table.sum(axis=1) for table in _bins(_told(pairs)))
    return [
        {"steps": int(n), "said": round(float(p / n), 4), "ended": round(float(y / n), 4)}
        for n, p, y in zip(steps, said, ended, strict=True)
        if n
    ]


def calibration_error(pairs: Sequence[Pair]) -> Estimate:
    """Expected calibration error of the end of episodes, with its interval over episodes."""
    steps, said, ended = _bins(pairs)

    def of_episodes(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        n, p, y = (table[:, chosen].sum(axis=-1) for table in (steps, said, ended))
        return np.abs(p - y).sum(axis=0) / n.sum(axis=0)

    return over_episodes(of_episodes, np.arange(len(pairs)))


def _told(pairs: Sequence[Pair]) -> list[Pair]:
    """Those whose outcomes somebody told."""
    return [pair for pair in pairs if not np.isnan(pair[1].rewards).any()]


def _bins(pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[bins, episodes] each: numbers of steps, sums of what was said, and of what happened."""
    tables = np.zeros((3, BINS, len(pairs)))
    for number, (expected, happened) in enumerate(pairs):
        where = np.minimum((expected.over * BINS).astype(int), BINS - 1)
        for table, values in zip(tables, (np.ones(len(where)), expected.over, happened.over), strict=True):
            np.add.at(table[:, number], where, values)
    return tables[0], tables[1], tables[2]


def _squares(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """[episodes] summed squared errors."""
    return np.array([np.sum((said - real.astype(np.float64)) ** 2) for said, real in pairs])


def _row(
    name: str, after: str, stage: str, model: Estimate, baseline: float | None, samples: int, baseline_name: str
) -> Row:
    return Row(
        f"{name}, {after} frames",
        stage,
        model.value,
        baseline,
        baseline_name,
        samples,
        higher_is_better=False,
        interval=model.interval,
    )
