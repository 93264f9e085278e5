"""Trains the odometer on the recorded moves, and tells how many it gets right in episodes that it was not shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_pipelines.stream.randomness import keyed_generator
from unimodel.tokenizers.odometer import Odometer, OdometerShape
from unimodel.vocabulary import UNKNOWN, Modality, Vocabulary

MOST_MOVES = 256
ROUNDED = 1000
"""Moves are the same to a thousandth: sums of equal steps differ in their last digits."""
HELD_OUT_FRACTION = 0.1
STEPS = 800
BATCH_STEPS = 256
LEARNING_RATE = 2e-3
WARMUP_STEPS = 20
HIDDEN_FRACTION = 0.05
"""Of the codes, in training: frames that a model has drawn are not right in every one."""


@dataclass(frozen=True, slots=True)
class Walk:
    """An episode as the odometer reads it: `frames` int64 [T + 1, codes] and `actions` int64 [T], ids of the run's
    vocabulary, -1 for an action that nobody knows; `moves` float64 [T, 3] as `moves_between` has them."""

    frames: np.ndarray
    actions: np.ndarray
    moves: np.ndarray


@dataclass(frozen=True, slots=True)
class Learnt:
    """An odometer; the share of held-out moves that it tells right, and what saying the most frequent one always would.
    Both are nan where one episode is all there is."""

    odometer: Odometer
    accuracy: float
    most_frequent: float


def train_odometer(
    walks: Sequence[Walk],
    vocabulary: Vocabulary,
    seed: int,
    progress: Callable[[int, float], None],
    num_steps: int = STEPS,
) -> Learnt:
    """Fits an odometer to episodes with pictures of one size; `progress(step, cross entropy in nats)`.

    Raises ValueError when there is not a single step.
    """
    rng = keyed_generator(seed, "odometer")
    order = rng.permutation(len(walks))
    count = max(1, round(HELD_OUT_FRACTION * len(walks))) if len(walks) > 1 else 0
    held_out, shown = [walks[i] for i in order[:count]], [walks[i] for i in order[count:]]
    if not sum(len(walk.moves) for walk in shown):
        raise ValueError("the episodes have no step, so there is no move to learn: record longer ones")
    known, moves = _distinct(np.concatenate([walk.moves for walk in shown]))
    images, actions = (vocabulary.range_of(each) for each in (Modality.IMAGE, Modality.ACTION))
    shape = OdometerShape(
        num_codes=shown[0].frames.shape[1],
        first_image_id=images.start,
        num_image_ids=len(images),
        first_action_id=actions.start,
        num_action_ids=len(actions),
        num_moves=len(moves),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        odometer = Odometer(shape)
        odometer.moves.copy_(torch.from_numpy(moves))
        _fit(odometer, _Steps.of(shown, known), rng, progress, num_steps)
    odometer.eval()
    if not sum(len(walk.moves) for walk in held_out):
        return Learnt(odometer, math.nan, math.nan)
    rest = _Steps.of(held_out, known)
    right = torch.cat([odometer(*some).argmax(dim=1) for some in rest.parts()]) == rest.labels
    return Learnt(odometer, right.double().mean().item(), (rest.labels == 0).double().mean().item())


class _Steps:
    """Steps of all episodes; label -1 is of a move that is not among the known."""

    def __init__(self, before: Tensor, actions: Tensor, after: Tensor, labels: Tensor) -> None:
        self.before, self.actions, self.after, self.labels = before, actions, after, labels

    @staticmethod
    def of(walks: Sequence[Walk], known: dict[tuple[int, ...], int]) -> _Steps:
        before, after = (np.concatenate([w.frames[part] for w in walks]) for part in (slice(None, -1), slice(1, None)))
        labels = [known.get(key, -1) for w in walks for key in map(tuple, _rounded(w.moves).tolist())]
        actions = np.concatenate([w.actions for w in walks])
        return _Steps(*(torch.from_numpy(np.asarray(each, np.int64)) for each in (before, actions, after, labels)))

    def parts(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        some = (self.before.split(BATCH_STEPS), self.actions.split(BATCH_STEPS), self.after.split(BATCH_STEPS))
        return list(zip(*some, strict=True))


def _fit(
    odometer: Odometer, steps: _Steps, rng: np.random.Generator, progress: Callable[[int, float], None], num_steps: int
) -> None:
    optimizer = torch.optim.AdamW(odometer.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    usable = torch.nonzero(steps.labels >= 0).ravel().numpy()
    for step in range(num_steps):
        scale = min(1.0, (step + 1) / WARMUP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * step / num_steps))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * scale
        some = torch.from_numpy(rng.choice(usable, size=BATCH_STEPS))
        before, after = _partly_hidden(steps.before[some]), _partly_hidden(steps.after[some])
        loss = F.cross_entropy(odometer(before, steps.actions[some], after), steps.labels[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress(step + 1, loss.item())


def _partly_hidden(ids: Tensor) -> Tensor:
    return ids.masked_fill(torch.rand(ids.shape) < HIDDEN_FRACTION, UNKNOWN)


def _rounded(moves: np.ndarray) -> np.ndarray:
    return np.rint(moves * ROUNDED).astype(np.int64)


def _distinct(moves: np.ndarray) -> tuple[dict[tuple[int, ...], int], np.ndarray]:
    """The number of each of the most frequent moves by its thousandths, the most frequent first, and what each is in
    full, float32 [moves, 3]."""
    keys, owner, counts = np.unique(_rounded(moves), axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_MOVES]
    sums = np.stack([np.bincount(owner.ravel(), weights=moves[:, axis]) for axis in range(3)], axis=1)
    means = (sums / counts[:, None])[order]
    return {tuple(key): number for number, key in enumerate(keys[order].tolist())}, means.astype(np.float32)
