"""Actions of other people's worlds as numbers: discrete ones as they are, vectors of controls by the nearest of a few.

The vectors are chosen by k-means over a sample of the data set, once per build: every block of the source carries them,
so no two processes ever disagree, and the manifest and the card tell what each number stands for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

MAX_ACTIONS = 1 << 16
SAMPLE_VECTORS = 1 << 14
"""Vectors that the centres are fitted to."""
ROUNDS = 30
SEED = 0


@dataclass(frozen=True, slots=True)
class ActionCodes:
    """What the actions 0 .. count - 1 of a data set are.

    start    of a discrete space: action a is its action start + a
    labels   of actions that have names: action a is called labels[a]
    centres  [count][controls] else: action a is nearly these controls, in the units of the source
    scale    [controls] what a difference is divided by before it is compared
    names    [controls]; () when the source names none
    error    [controls] root mean square of what is lost, over the sample, in the units of the source
    """

    count: int
    start: int = 0
    centres: tuple[tuple[float, ...], ...] = ()
    scale: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    error: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """int64 [T] for actions [T] of a discrete space or [T, controls].

        Raises ValueError for other shapes, what is not finite and what a discrete space does not have.
        """
        if not len(actions):
            return np.zeros(0, dtype=np.int64)
        if not self.centres:
            codes = actions.reshape(len(actions), -1).astype(np.int64)
            if codes.shape[1] != 1 or (codes != actions.reshape(codes.shape)).any():
                raise ValueError(f"its actions of shape {list(actions.shape[1:])} are not single whole numbers")
            codes = codes[:, 0] - self.start
            if len(codes) and not (codes.min() >= 0 and codes.max() < self.count):
                raise ValueError(f"its actions are not all within {self.start} .. {self.start + self.count - 1}")
            return codes
        vectors = _vectors(actions)
        if vectors.shape[1] != len(self.scale):
            raise ValueError(f"its actions have {vectors.shape[1]} controls where others have {len(self.scale)}")
        from scipy.cluster.vq import vq

        scale = np.array(self.scale)
        return vq(vectors / scale, np.array(self.centres) / scale)[0].astype(np.int64)

    @property
    def action_names(self) -> list[str]:
        """[count] for people."""
        return list(self.labels) or [str(self.start + action) for action in range(self.count)]

    @property
    def metadata(self) -> dict[str, Any]:
        """What a manifest says of the actions."""
        return {"num_actions": self.count, "action_names": self.action_names, "actions": asdict(self)}


def discrete_actions(smallest: int, count: int) -> ActionCodes:
    """The codes of a discrete space. Raises ValueError for one of more than MAX_ACTIONS."""
    if count > MAX_ACTIONS:
        raise ValueError(f"its actions are {count} different whole numbers, more than {MAX_ACTIONS}")
    return ActionCodes(count, smallest)


def named_actions(labels: Iterable[str]) -> ActionCodes:
    """The codes of actions that have names, in alphabetical order. Raises ValueError for more than MAX_ACTIONS."""
    names = tuple(sorted(set(labels)))
    return ActionCodes(discrete_actions(0, len(names)).count, labels=names)


def fit_action_codes(sample: np.ndarray, count: int, names: Sequence[str] = ()) -> ActionCodes:
    """At most `count` centres for vectors like those of `sample` [n, controls], in ascending order: all different
    vectors when they are so few (nothing is lost then), else their k-means, every control divided by its deviation.

    Raises ValueError when there is none or one is not finite.
    """
    vectors = _vectors(sample)
    if not vectors.size:
        raise ValueError("no episode has an action")
    deviation = vectors.std(axis=0)
    scale = _short(np.where(deviation > 0, deviation, 1.0))
    centres = np.unique(vectors, axis=0)
    if len(centres) > count:
        centres = _k_means(vectors / scale, count) * scale
    # Few digits: another machine's last bit must not make another data set.
    centres = np.unique(_short(centres), axis=0)
    names = tuple(names) if len(names) == vectors.shape[1] else ()
    codes = ActionCodes(len(centres), 0, _rows(centres), tuple(scale.tolist()), names)
    lost = np.sqrt(np.mean((vectors - centres[codes.encode(vectors)]) ** 2, axis=0))
    return ActionCodes(codes.count, 0, codes.centres, codes.scale, names, tuple(_short(lost).tolist()))


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 .. count - 1, evenly."""
    chosen = min(count, most)
    return [number * count // chosen for number in range(chosen)]


def readable_actions(read: Callable[[int], np.ndarray], episodes: Iterable[int]) -> Iterator[np.ndarray]:
    """Actions [T, ...] of those of the episodes that can be read; the others are dropped when their turn comes.

    Raises the first ValueError when there is none.
    """
    first: ValueError | None = None
    none = True
    for number in episodes:
        try:
            actions = read(number)
            if not np.isfinite(actions).all():
                raise ValueError(f"the actions of episode {number} are not all finite")
        except ValueError as error:
            first = first or error
        else:
            none = none and not len(actions)
            yield actions
    if none and first is not None:
        raise first


def sample_actions(episodes: Iterable[np.ndarray], num_episodes: int) -> np.ndarray:
    """[n, controls] about SAMPLE_VECTORS actions, equally many of each of the episodes [T, ...] that has them."""
    most = max(1, SAMPLE_VECTORS // max(1, num_episodes))
    parts = [_vectors(actions)[spread(len(actions), most)] for actions in episodes if len(actions)]
    if len({part.shape[1] for part in parts}) > 1:
        raise ValueError("its episodes have different numbers of controls in an action")
    return np.concatenate(parts) if parts else np.zeros((0, 0))


def _vectors(actions: np.ndarray) -> np.ndarray:
    vectors = np.asarray(actions, dtype=np.float64).reshape(len(actions), -1)
    if not np.isfinite(vectors).all():
        raise ValueError("its actions are not all finite")
    return vectors


def _k_means(vectors: np.ndarray, count: int) -> np.ndarray:
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a cluster is empty: it is left out below
        rng = np.random.default_rng(SEED)
        centres, labels = kmeans2(vectors, count, iter=ROUNDS, minit="++", rng=rng)
    return centres[np.unique(labels)]


def _short(values: np.ndarray) -> np.ndarray:
    """Rounded to six significant digits, without a negative zero."""
    return np.array([float(f"{value:.6g}") for value in values.ravel()]).reshape(values.shape) + 0.0


def _rows(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())
