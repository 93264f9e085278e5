"""The second pass of a build: which samples are kept, in which split and in which shard.

A pure function of the records of all parts in the order of the source: nothing is read, nothing depends on processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from data_pipelines.build.duplicates import Duplicates
from data_pipelines.build.parts import PartRecord, PartSample, same_key
from data_pipelines.build.settings import BuildSettings, ShardSettings, SplitSettings
from data_pipelines.sources.item import Dropped

SPLITS = ("train", "validation", "test")
HASH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Selection:
    """Shards of every split, each a list of sample numbers over all parts, the sets of fields that samples have, and
    all that was dropped."""

    num_items: int
    shards: dict[str, list[list[int]]]
    field_sets: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def num_samples(self, split: str) -> int:
        return sum(map(len, self.shards.get(split, [])))


def select(settings: BuildSettings, records: Iterable[PartRecord]) -> Selection:
    """Decides for every sample of the parts, in order."""
    duplicates = Duplicates(settings.duplicates)
    names: dict[str, str] = {}
    dropped: list[Dropped] = []
    field_sets: set[str] = set()
    kept: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
    number = num_items = 0
    for record in records:
        num_items += record.num_items
        dropped += record.dropped
        for sample in record.samples:
            reason = _reason_to_drop(sample, names, duplicates)
            if reason is None:
                names[sample.key] = sample.name
                field_sets.add(sample.fields)
                kept[split_of(sample.group or sample.key, settings.splits)].append((number, sample.size_bytes))
            else:
                dropped.append(reason)
            number += 1
    shards = {split: list(_shards(samples, settings.shards)) for split, samples in kept.items() if samples}
    return Selection(num_items, shards, sorted(field_sets), dropped)


def split_of(group: str, splits: SplitSettings) -> str:
    """The split of a key or group of pieces, from its hash alone."""
    digest = hashlib.sha256(group.encode()).digest()
    place = int.from_bytes(digest[:HASH_BYTES], "big") / (1 << 8 * HASH_BYTES)
    if place < splits.test:
        return "test"
    return "validation" if place < splits.test + splits.validation else "train"


def _reason_to_drop(sample: PartSample, names: dict[str, str], duplicates: Duplicates) -> Dropped | None:
    if sample.key in names:
        return same_key(sample.name, sample.key, names[sample.key])
    found = duplicates.find(sample.key, sample.prints)
    return None if found is None else Dropped(sample.name, found[0], f"of {names[found[1]]}")


def _shards(samples: list[tuple[int, int]], settings: ShardSettings) -> Iterator[list[int]]:
    numbers: list[int] = []
    size = 0
    for number, size_bytes in samples:
        full = len(numbers) >= settings.max_samples or size + size_bytes > settings.max_megabytes << 20
        if numbers and full:
            yield numbers
            numbers, size = [], 0
        numbers.append(number)
        size += size_bytes
    if numbers:
        yield numbers
