"""Which sample comes when: a pure function of (seed, stage, draw number).

A mixture is an endless list of draws. Ingredients alternate in cycles that hold exactly their share of draws, in an
order shuffled per cycle; the k-th draw of an ingredient walks through its samples in a fresh permutation per epoch.
Any draw is computed directly from its number, so resuming is a seek and no rank or worker count enters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data_pipelines.stream.randomness import keyed_generator

CYCLE_DRAWS = 64


@dataclass(frozen=True, slots=True)
class StreamState:
    """Where a stream stands: the next row to give out is row `row` of window `window`."""

    window: int = 0
    row: int = 0


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One entry of a mixture: how many samples it has and its share of the draws."""

    num_samples: int
    share: float


@dataclass(frozen=True, slots=True)
class Draw:
    """Sample `sample` of ingredient `ingredient`, seen for the (epoch + 1)-th time."""

    ingredient: int
    epoch: int
    sample: int


class MixtureOrder:
    """The endless list of draws of one stage. `order[n]` is the n-th draw."""

    def __init__(self, ingredients: Sequence[Ingredient], seed: int, stage: str) -> None:
        if not ingredients:
            raise ValueError(f"stage {stage}: the mixture is empty")
        for index, ingredient in enumerate(ingredients):
            if ingredient.num_samples < 1:
                raise ValueError(f"stage {stage}: ingredient {index} of the mixture has no samples")
        self._ingredients = tuple(ingredients)
        self._seed, self._stage = seed, stage
        self._per_cycle = _largest_remainder([i.share for i in ingredients], CYCLE_DRAWS)
        self._cycle = lru_cache(maxsize=8)(self._build_cycle)
        self._permutation = lru_cache(maxsize=2 * len(ingredients))(self._build_permutation)

    def __getitem__(self, number: int) -> Draw:
        cycle_number, place = divmod(number, CYCLE_DRAWS)
        cycle, rank_within = self._cycle(cycle_number)
        ingredient = int(cycle[place])
        draw = cycle_number * int(self._per_cycle[ingredient]) + int(rank_within[place])
        epoch, position = divmod(draw, self._ingredients[ingredient].num_samples)
        return Draw(ingredient, epoch, int(self._permutation(ingredient, epoch)[position]))

    def generator(self, *purpose: int | str) -> np.random.Generator:
        """A generator for one purpose of this stage's order."""
        return keyed_generator(self._seed, self._stage, *purpose)

    def _build_cycle(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The ingredient of every draw of a cycle, and how many draws of it came earlier in the cycle."""
        cycle = np.repeat(np.arange(len(self._ingredients)), self._per_cycle)
        self.generator("cycle", number).shuffle(cycle)
        one_hot = cycle[:, None] == np.arange(len(self._ingredients))
        return cycle, (np.cumsum(one_hot, axis=0) - 1)[np.arange(len(cycle)), cycle]

    def _build_permutation(self, ingredient: int, epoch: int) -> np.ndarray:
        return self.generator("order", ingredient, epoch).permutation(self._ingredients[ingredient].num_samples)


def _largest_remainder(shares: Sequence[float], total: int) -> np.ndarray:
    """Whole numbers that sum to `total`, as near to `shares` as possible, at least 1 each."""
    exact = np.asarray(shares, dtype=np.float64) / sum(shares) * total
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    while counts.sum() != total:
        step = 1 if counts.sum() < total else -1
        error = (exact - counts) * step
        error[counts + step < 1] = -np.inf
        counts[int(np.argmax(error))] += step
    return counts
