"""New files for a store that is compacted, given the keys of another model, or branched.

Nothing here changes a file that is committed, so a process killed in the middle leaves the store as it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from data_pipelines.shards.atomic import PARTIAL_SUFFIX
from unimodel.memory.manifest import MANIFEST_FILE, Manifest
from unimodel.memory.record import EncodeKeys, Record, StoreSettings, encode_keys, largest_norm
from unimodel.memory.segments import (
    SEGMENTS_FOLDER,
    Segment,
    SegmentEntry,
    Write,
    disk_error,
    lay_out,
    write_synced,
)
from unimodel.run_folder import sync_folder

REENCODE_RECORDS = 256
"""Records that a model encodes at once."""


def runs_to_compact(segments: Sequence[Segment], settings: StoreSettings) -> Iterator[list[Segment]]:
    """Neighbours that are not full, or hold what is forgotten or cut off, and would take less room as one."""
    for is_partial, group in groupby(
        segments, lambda segment: segment.has_gaps or segment.entry.rows < settings.segment_rows
    ):
        run = list(group)
        if is_partial and (len(run) > 1 or run[0].has_gaps):
            yield run


def compact_run(
    run: Sequence[Segment], number: int, generation: int, folder: Path, settings: StoreSettings, threads: Executor
) -> list[SegmentEntry]:
    """Writes what is live in `run` into new segments from `number` on; all are closed. Raises ValueError for a damaged
    record."""
    entries: dict[int, SegmentEntry] = {}
    tail = None
    for segment in run:
        grown, writes = lay_out(segment.encoded(), tail, number, generation, folder, settings)
        write_synced(writes, threads)
        entries |= {entry.number: entry for entry in grown}
        if grown:
            tail, number = grown[-1], grown[-1].number + 1
    return [replace(entry, is_open=False) for entry in entries.values()]


def reencode_segment(
    segment: Segment,
    read: Callable[[Segment, np.ndarray], list[Record]],
    encode: EncodeKeys,
    generation: int,
    settings: StoreSettings,
    threads: Executor,
) -> SegmentEntry:
    """Writes keys of `generation` for what is live, beside the old ones. `read` gives the records of some places.

    Raises ValueError when `encode` gives something else than a key [dim] a record.
    """
    live = segment.live
    keys = np.zeros((segment.entry.rows, settings.dim), np.float16)  # of what is forgotten too, never to be seen
    for start in range(0, len(live), REENCODE_RECORDS):
        places = live[start : start + REENCODE_RECORDS]
        fresh = np.asarray(encode(read(segment, places)))
        if fresh.shape != (len(places), settings.dim):
            raise ValueError(
                f"encode gave {list(fresh.shape)} for {len(places)} records, not {[len(places), settings.dim]}"
            )
        keys[places] = encode_keys(fresh, settings)["key"]
    encoded = encode_keys(keys, settings)
    entry = replace(segment.entry, generation=generation, largest_norm=largest_norm(encoded))
    write_synced([Write(segment.folder / entry.keys_name, 0, encoded.tobytes())], threads)
    return entry


def write_branch(
    path: Path, entries: Sequence[SegmentEntry], source: Path, manifest: Manifest, settings: StoreSettings
) -> None:
    """A store in the new folder `path` with `entries`, whose files lie in `source`: linked where they never change and
    the file system can, else copied to their committed end. It appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*{PARTIAL_SUFFIX}"):  # of a process that was killed here
        shutil.rmtree(left)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        target = partial / SEGMENTS_FOLDER
        target.mkdir(parents=True)
        for entry in entries:
            for name, size in entry.sizes(settings).items():
                if entry.is_open or not _is_linked(source / name, target / name):
                    _copy(source / name, target / name, size)
        sync_folder(target)
        manifest.copy_to(partial / MANIFEST_FILE)
        sync_folder(partial)
        partial.rename(path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(path.parent)


def _is_linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        return False
    return True


def _copy(source: Path, target: Path, size: int) -> None:
    with source.open("rb") as original, target.open("xb") as copy:
        shutil.copyfileobj(original, copy)
        copy.truncate(size)
        copy.flush()
        os.fsync(copy.fileno())
