"""Which sample of a source comes when: a pure function of (seed, stage, source, draw number).

Two-level shuffle, a fresh one each epoch: the shards are permuted and taken in groups of a few; the samples of a group
are permuted. So a reader has few shards open at a time, and any draw is computed directly from its number.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from data_pipelines.stream.randomness import keyed_generator

GROUP_SAMPLES = 1 << 17
"""Shards are grouped up to about so many samples, and to GROUP_SHARDS at most."""
GROUP_SHARDS = 16
MAX_SHARDS_AHEAD = 512


class Draw(NamedTuple):
    """Sample `sample` of ingredient `ingredient`, seen for the (epoch + 1)-th time."""

    ingredient: int
    epoch: int
    sample: int


class SampleOrder:
    """The endless list of samples of one source of `shard_samples` samples per shard. `order[n]` is (epoch, sample)."""

    def __init__(self, shard_samples: Sequence[int] | np.ndarray, *key: int | str) -> None:
        self._counts = np.asarray(shard_samples, dtype=np.int64)
        self.num_samples = int(self._counts.sum())
        if self.num_samples < 1:
            raise ValueError(f"a source of {key} has no samples")
        self._first = np.cumsum(self._counts) - self._counts
        self._group_shards = int(max(1, min(GROUP_SHARDS, GROUP_SAMPLES * len(self._counts) // self.num_samples)))
        self._key = key
        self._shards = lru_cache(maxsize=2)(self._permute_shards)
        self._group = lru_cache(maxsize=2)(self._permute_group)

    def __getitem__(self, number: int) -> tuple[int, int]:
        epoch, position = divmod(number, self.num_samples)
        _, group_ends = self._shards(epoch)
        group = bisect_right(group_ends, position)
        before = group_ends[group - 1] if group else 0
        return epoch, self._group(epoch, group)[position - before]

    def shards_from(self, number: int, count: int) -> list[tuple[int, int]]:
        """(epoch, first sample) of every shard that draws `number` .. `number + count` come from, and of the group of
        shards after those."""
        found: list[tuple[int, int]] = []
        here = number
        while len(found) < MAX_SHARDS_AHEAD:
            epoch, position = divmod(here, self.num_samples)
            shards, group_ends = self._shards(epoch)
            group = bisect_right(group_ends, position)
            some = shards[group * self._group_shards : (group + 1) * self._group_shards]
            found += [(epoch, int(self._first[shard])) for shard in some if self._counts[shard]]
            if here > number + count:
                break
            here = epoch * self.num_samples + group_ends[group]
        return found

    def _permute_shards(self, epoch: int) -> tuple[np.ndarray, list[int]]:
        """The shards in the order of an epoch, and how many samples come up to the end of every group of them."""
        shards = keyed_generator(*self._key, "shards", epoch).permutation(len(self._counts))
        ends = np.cumsum(self._counts[shards])
        last = range(self._group_shards, len(shards) + self._group_shards, self._group_shards)
        return shards, ends[np.minimum(last, len(ends)) - 1].tolist()

    def _permute_group(self, epoch: int, group: int) -> memoryview:
        """The samples of a group, shuffled. A number of a memoryview is a Python int at a third of an array's cost."""
        shards = self._shards(epoch)[0][group * self._group_shards : (group + 1) * self._group_shards]
        samples = np.concatenate([self._first[s] + np.arange(int(self._counts[s]), dtype=np.int64) for s in shards])
        keyed_generator(*self._key, "samples", epoch, group).shuffle(samples)
        return samples.data
