"""Inferred actions beside the real ones that held-out episodes know: do they mean the same, and does a picture obey?"""

from __future__ import annotations

import numpy as np
from scipy import stats

from data_pipelines.sources.episode import UNKNOWN_ACTION, Episode
from data_pipelines.stream.randomness import keyed_generator
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.image_metrics import psnr
from unimodel.evaluation.intervals import by_episode, over_episodes, ratio
from unimodel.evaluation.table import Row
from unimodel.tokenizers.latent_action import LatentActionModel

STAGE = "tokenizer"


def evaluate_latent_actions(model: LatentActionModel, held_out: HeldOut) -> tuple[list[Row], list[Row]]:
    """For the table, over the steps that changed anything: accuracy of the best map from codes to actions and adjusted
    mutual information, where actions are known; PSNR of the frame that is drawn from the inferred code. For the
    details, the accuracy over all steps with a known action: what changes nothing, nobody can tell."""
    episodes = [episode for episode in held_out.episodes if episode.frames.size and episode.num_steps]
    if not episodes:
        return [], []
    before = np.concatenate([episode.frames[:-1] for episode in episodes])
    after = np.concatenate([episode.frames[1:] for episode in episodes])
    actions = np.concatenate([_single(episode) for episode in episodes])
    owners = np.repeat(np.arange(len(episodes)), [episode.num_steps for episode in episodes])
    codes = np.concatenate([model.codes(episode.frames) for episode in episodes])
    moved, known = (before != after).any(axis=(1, 2, 3)), actions != UNKNOWN_ACTION
    rows, details = [], []
    if (moved & known).any():
        some = moved & known
        rows.append(_accuracy_row("steps that change something", codes[some], actions[some], owners[some]))
        together = adjusted_mutual_information(codes[some], actions[some])
        name = "latent codes and actions, adjusted mutual information"
        rows.append(Row(name, STAGE, together, 0.0, "chance; 1 is the same up to names", int(some.sum())))
        details.append(_accuracy_row("all steps", codes[known], actions[known], owners[known]))
    if moved.any():
        rows.append(_drawn_row(model, before[moved], after[moved], codes[moved]))
    used = len(np.unique(codes))
    details.append(Row("latent codes in use", STAGE, used, None, f"of {model.num_codes}", len(codes)))
    return rows, details


def _single(episode: Episode) -> np.ndarray:
    """int [T]: of several agents there is no action that a single code could stand for."""
    return episode.actions if episode.num_agents == 1 else np.full(episode.num_steps, UNKNOWN_ACTION)


def _accuracy_row(steps: str, codes: np.ndarray, actions: np.ndarray, owners: np.ndarray) -> Row:
    told, majority = best_map(codes, actions, owners)
    right = over_episodes(ratio, by_episode(owners, told == actions), by_episode(owners, np.ones(len(actions))))
    return Row(
        f"actions told by their latent codes, {steps}",
        STAGE,
        right.value,
        float((majority == actions).mean()),
        "most frequent action",
        len(actions),
        interval=right.interval,
    )


def best_map(codes: np.ndarray, actions: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int [n] each: the action that a code stands for most often, and the most frequent action of all, in the *other*
    half of the episodes that own the steps: even ones judge odd ones, and the reverse. A code that the other half
    never has stands for the most frequent action."""
    told, majority = np.empty_like(actions), np.empty_like(actions)
    for half in (0, 1):
        here = owners % 2 == half
        there = ~here if not here.all() else here  # one episode judges itself
        counts = np.zeros((codes.max() + 1, actions.max() + 1))
        np.add.at(counts, (codes[there], actions[there]), 1)
        frequent = counts.sum(axis=0).argmax()
        meaning = np.where(counts.any(axis=1), counts.argmax(axis=1), frequent)
        told[here], majority[here] = meaning[codes[here]], frequent
    return told, majority


def _drawn_row(model: LatentActionModel, before: np.ndarray, after: np.ndarray, codes: np.ndarray) -> Row:
    others = keyed_generator("evaluate latent actions").integers(model.num_codes, size=len(codes))
    inferred, random = (psnr(model.drawn(before, some), after) for some in (codes, others))
    name = "frame drawn from its latent action, PSNR"
    return Row(name, STAGE, inferred, random, "from a random one", len(codes), "dB")


def adjusted_mutual_information(one: np.ndarray, other: np.ndarray) -> float:
    """Of two labels of the same things, int [n]: 0 by chance, 1 the same up to names (Vinh, Epps and Bailey 2010, with
    the mean of the entropies). 0 where one of them is always the same."""
    table = np.zeros((one.max() + 1, other.max() + 1), dtype=np.int64)
    np.add.at(table, (one, other), 1)
    table = table[table.any(axis=1)][:, table.any(axis=0)]
    if min(table.shape) < 2:
        return 0.0
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    by_chance = _information_by_chance(rows, columns)
    first, second = _entropy(rows), _entropy(columns)
    information = first + second - _entropy(table.ravel())
    return (information - by_chance) / ((first + second) / 2 - by_chance)


def _information_by_chance(rows: np.ndarray, columns: np.ndarray) -> float:
    """Nats: the mean over all tables with these sums, whose cells are hypergeometric."""
    total, expected = rows.sum(), 0.0
    for a in rows.tolist():
        for b in columns.tolist():
            cell = np.arange(max(1, a + b - total), min(a, b) + 1)
            shares = stats.hypergeom.pmf(cell, total, a, b)
            expected += float(np.sum(shares * cell / total * np.log(cell * total / (a * b))))
    return expected


def _entropy(counts: np.ndarray) -> float:
    """Nats."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
