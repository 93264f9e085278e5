"""The first pass of a build: every block of the source is read once into a part, a shard of what may be kept.

A part has a record beside it: fingerprints of its samples, and what was dropped and why. Both are made whole or not at
all, so a build that was killed continues with the parts that are missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from data_pipelines.build.duplicates import fingerprint
from data_pipelines.build.filters import reason_to_drop
from data_pipelines.build.settings import BuildSettings
from data_pipelines.build.source import read_block
from data_pipelines.shards.atomic import publish
from data_pipelines.shards.index import Manifest, ShardEntry, checked_entry, write_manifest
from data_pipelines.shards.table import Lengths
from data_pipelines.shards.unfinished import is_there
from data_pipelines.shards.writer import write_shard
from data_pipelines.sources.item import UNREADABLE, Block, Dropped, EncodedSample


@dataclass(frozen=True, slots=True)
class PartTask:
    """One block to read into the tar at `path`."""

    path: Path
    settings: BuildSettings
    block: Block


@dataclass(frozen=True, slots=True)
class PartRecord:
    """What a block gave: its samples in the order of the part, and what was dropped on the way."""

    num_items: int
    samples: list[PartSample]
    dropped: list[Dropped]
    shard: ShardEntry | None = None

    @property
    def num_unreadable(self) -> int:
        return sum(dropped.reason == UNREADABLE for dropped in self.dropped)


@dataclass(frozen=True, slots=True)
class PartSample:
    """What the second pass must know of a sample without reading it."""

    key: str
    name: str
    group: str
    size_bytes: int
    fields: str
    prints: dict[str, str] = field(default_factory=dict)


def part_tasks(folder: Path, settings: BuildSettings, blocks: Sequence[Block]) -> list[PartTask]:
    """One task per block, in the order of the source."""
    return [PartTask(folder / f"part-{number:06d}.tar", settings, block) for number, block in enumerate(blocks)]


def make_part(task: PartTask) -> PartRecord:
    """Reads one block; the record returned is without its samples (the file has them)."""
    samples: list[PartSample] = []
    dropped: list[Dropped] = []
    kept = _kept(task, samples, dropped)
    first = next(kept, None)
    shard = None if first is None else write_shard(task.path, chain([first], kept))
    num_items = task.block.num_items
    num_items = len(samples) + len(dropped) if num_items is None else num_items
    record = PartRecord(num_items, samples, dropped, shard)
    publish(_record_path(task.path), json.dumps(asdict(record), separators=(",", ":")).encode())
    return PartRecord(record.num_items, [], dropped, shard)


def read_record(task: PartTask) -> PartRecord | None:
    """The record of a part, when the part is there; None when it must be made."""
    try:
        values = json.loads(_record_path(task.path).read_bytes())
    except FileNotFoundError:
        return None
    shard = None if values["shard"] is None else checked_entry(**values["shard"])
    if shard is not None and not is_there(task.path, shard.size_bytes):
        return None
    samples = [PartSample(**sample) for sample in values["samples"]]
    return PartRecord(values["num_items"], samples, [Dropped(**dropped) for dropped in values["dropped"]], shard)


def finished_record(task: PartTask) -> PartRecord:
    """The record of a part that is there."""
    record = read_record(task)
    assert record is not None, f"{task.path} was made before"
    return record


def write_parts_manifest(folder: Path, records: Iterable[PartRecord]) -> None:
    """Makes the parts one folder of shards, whose sample n is the n-th of all records."""
    write_manifest(folder, Manifest(tuple(record.shard for record in records if record.shard is not None)))


def _kept(
    task: PartTask, samples: list[PartSample], dropped: list[Dropped]
) -> Iterator[tuple[str, dict[str, bytes], Lengths]]:
    """What goes into the part, written down in `samples` as it passes; the rest in `dropped`."""
    settings = task.settings
    seen: dict[str, str] = {}
    provenance: dict[str, Any] = dict(settings.provenance)
    for sample in read_block(settings.source, provenance, task.block):
        if isinstance(sample, Dropped):
            dropped.append(sample)
        elif sample.key in seen:
            dropped.append(same_key(sample.name, sample.key, seen[sample.key]))
        elif (reason := reason_to_drop(sample, settings.filters)) is not None:
            dropped.append(reason)
        else:
            seen[sample.key] = sample.name
            samples.append(_describe(sample, settings))
            yield sample.key, sample.fields, sample.lengths


def same_key(name: str, key: str, first: str) -> Dropped:
    """A sample that cannot be named: two of one key would become one in every reader."""
    return Dropped(name, "same key", f"its key {key} is that of {first}: rename one")


def _describe(sample: EncodedSample, settings: BuildSettings) -> PartSample:
    size = sum(len(payload) for payload in sample.fields.values())
    fields, prints = ", ".join(sorted(sample.fields)), fingerprint(sample, settings.duplicates)
    return PartSample(sample.key, sample.name, sample.group, size, fields, prints)


def _record_path(part: Path) -> Path:
    return part.with_suffix(".json")
