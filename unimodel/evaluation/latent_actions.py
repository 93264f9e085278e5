"""Inferred actions beside the real ones that held-out episodes know: do they mean the same, and does a picture obey?"""

from __future__ import annotations

import math

import numpy as np

from data_pipelines.stream.randomness import keyed_generator
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.image_metrics import psnr
from unimodel.evaluation.table import Row
from unimodel.tokenizers.latent_action import LatentActionModel


def evaluate_latent_actions(model: LatentActionModel, held_out: HeldOut) -> list[Row]:
    """Normalised mutual information of code and action over the steps that changed anything, against that of actions
    in random order; and PSNR of the frame that is drawn from the inferred code, against one from a random code."""
    before = np.concatenate([episode.frames[:-1] for episode in held_out.episodes])
    after = np.concatenate([episode.frames[1:] for episode in held_out.episodes])
    actions = np.concatenate([episode.actions for episode in held_out.episodes])
    codes = np.concatenate([model.codes(episode.frames) for episode in held_out.episodes])
    moved = (before != after).any(axis=(1, 2, 3))
    if not moved.any():
        return []
    before, after, actions, codes = before[moved], after[moved], actions[moved], codes[moved]
    rng = keyed_generator("evaluate latent actions")
    drawn = [model.drawn(before, some) for some in (codes, rng.integers(model.num_codes, size=len(codes)))]
    shuffled = mutual_information(codes, rng.permutation(actions))
    information = mutual_information(codes, actions)
    return [
        Row("latent action information", "tokenizer", information, shuffled, "actions in random order", len(codes)),
        Row(
            "frame drawn from its latent action, PSNR",
            "tokenizer",
            psnr(drawn[0], after),
            psnr(drawn[1], after),
            "from a random one",
            len(codes),
            "dB",
        ),
    ]


def mutual_information(one: np.ndarray, other: np.ndarray) -> float:
    """Of two labels of the same things, int [n], over the geometric mean of their entropies: 0 nothing, 1 the same up to
    names (Strehl and Ghosh 2002). 0 where one of them is always the same."""
    together = np.zeros((one.max() + 1, other.max() + 1))
    np.add.at(together, (one, other), 1 / len(one))
    first, second = _entropy(together.sum(axis=1)), _entropy(together.sum(axis=0))
    if min(first, second) <= 0:
        return 0.0
    return (first + second - _entropy(together.ravel())) / math.sqrt(first * second)


def _entropy(shares: np.ndarray) -> float:
    """Nats."""
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())
