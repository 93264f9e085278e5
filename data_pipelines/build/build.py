"""Makes a folder of shards out of a source, continued where it was interrupted.

Two passes: the source is read once, block by block, into parts under FOLDER/.build (`parts.py`); what is kept is
decided from their records (`selection.py`) and copied into the shards of the splits. The disk holds the data twice
until the end. Neither the number of processes nor an interruption changes a byte of the result.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from data_pipelines.build.card import DROPPED_FILE, dataset_card, dropped_lines
from data_pipelines.build.duplicates import check_duplicates
from data_pipelines.build.filters import check_filters
from data_pipelines.build.parts import (
    PartRecord,
    PartTask,
    finished_record,
    make_part,
    part_tasks,
    read_record,
    write_parts_manifest,
)
from data_pipelines.build.selection import SPLITS, Selection, select
from data_pipelines.build.settings import BuildSettings
from data_pipelines.build.source import actions_of, list_blocks
from data_pipelines.shards.atomic import publish, remove_partials
from data_pipelines.shards.index import read_manifest
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.table import Lengths
from data_pipelines.shards.unfinished import finish_folder, is_complete, missing_shards, publish_sidecar
from data_pipelines.shards.writer import write_shard
from data_pipelines.sources.item import UNREADABLE, Block
from data_pipelines.sources.processes import run_tasks

WORK_FOLDER = ".build"
FINISHED_FOLDER = ".build-finished"
"""The work folder under another name while it is being removed: a half-removed one is never taken for work to do."""
CARD_FILE = "README.md"
NAMED_ITEMS = 5


class Bar(Protocol):
    def advance(self, steps: int, detail: str = "") -> None: ...


Progress = Callable[[str, int], AbstractContextManager[Bar]]
"""Opens a bar with a title and a number of steps."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to copy together from the parts: the samples of these numbers."""

    path: Path
    parts: Path
    numbers: list[int]


def build_dataset(settings: BuildSettings, progress: Progress | None = None, processes: int | None = None) -> bool:
    """Builds `settings.folder`/SPLIT for every split that has samples; False, without any work, when that is done.

    `processes` is the number of worker processes, by default one per usable core. Raises ValueError when the folder
    holds something else, another build is writing there, the source is not what it was when the build began, too many
    items are unreadable or nothing is left; OSError naming the path when the disk is full; RuntimeError when a worker
    process was killed. What is finished stays.
    """
    folder, work = settings.folder, settings.folder / WORK_FOLDER
    shutil.rmtree(folder / FINISHED_FOLDER, ignore_errors=True)
    _check_folder(settings)
    if not work.exists() and is_built(settings):
        return False
    check_filters(settings.filters)
    check_duplicates(settings.duplicates)
    blocks = list_blocks(settings.source)
    listing = _listing_hash(blocks)
    _check_listing(folder, listing)
    work.mkdir(parents=True, exist_ok=True)
    with _locked(work):
        publish(work / "plan.json", json.dumps({"build": settings.in_the_bytes(), "listing": listing}).encode())
        count, progress = processes or len(os.sched_getaffinity(0)), progress or _silent
        tasks = _read_source(settings, work, blocks, progress, count)
        selection = select(settings, map(finished_record, tasks))
        if not selection.shards:
            raise ValueError(f"{folder}: nothing is left of {selection.num_items} items: {_reasons(selection)}")
        _write_shards(folder, work, selection, progress, count)
        actions = actions_of(blocks)
        metadata = {"kind": "samples", "build": settings.in_the_bytes(), "listing": listing}
        metadata |= {} if actions is None else actions.metadata
        for split, shards in selection.shards.items():
            finish_folder(folder / split, _shard_paths(folder / split, len(shards)), metadata)
        publish(folder / DROPPED_FILE, dropped_lines(selection))
        publish(folder / CARD_FILE, dataset_card(settings, selection, actions))
        work.rename(folder / FINISHED_FOLDER)
    shutil.rmtree(folder / FINISHED_FOLDER)
    return True


def is_built(settings: BuildSettings) -> bool:
    """The card, which comes last, is there and every split is complete. The source is not looked at again."""
    splits = [settings.folder / split for split in SPLITS if (settings.folder / split).exists()]
    return (settings.folder / CARD_FILE).exists() and bool(splits) and all(map(is_complete, splits))


def copy_shard(task: ShardTask) -> int:
    """Copies one shard together, then its sidecar; returns its number of samples."""
    shard = write_shard(task.path, _samples(task))
    publish_sidecar(task.path, {"shard": asdict(shard)})
    return len(task.numbers)


def _samples(task: ShardTask) -> Iterator[tuple[str, dict[str, bytes], Lengths]]:
    reader = ShardReader(task.parts)
    for number in task.numbers:
        key, fields = reader.read(number)
        yield key, fields, reader.entry(number).lengths


def _read_source(
    settings: BuildSettings, work: Path, blocks: list[Block], progress: Progress, processes: int
) -> list[PartTask]:
    """Makes the parts that are missing and the manifest of all; the tasks of all."""
    parts = work / "parts"
    parts.mkdir(exist_ok=True)
    remove_partials(parts)
    tasks = part_tasks(parts, settings, blocks)
    missing: list[PartTask] = []
    limit = _UnreadableLimit(settings, [block.num_items for block in blocks])
    with progress("reading the source", len(tasks)) as bar:

        def report(record: PartRecord) -> None:
            limit.count(record)
            bar.advance(1)

        for task in tasks:
            record = read_record(task)
            if record is None:
                missing.append(task)
            else:
                report(record)
        try:
            run_tasks(make_part, missing, processes, report)
        finally:
            remove_partials(parts)
    limit.check_end()
    write_parts_manifest(parts, map(finished_record, tasks))
    return tasks


class _UnreadableLimit:
    """Stops a build as soon as it is certain that too much of its source cannot be read: early when the number of items
    is known, else at the end. So the verdict does not depend on the order in which blocks are finished."""

    def __init__(self, settings: BuildSettings, num_items: list[int | None]) -> None:
        self._fraction = settings.max_unreadable_fraction
        known = [number for number in num_items if number is not None]
        self._num_items = sum(known) if len(known) == len(num_items) else None
        self._unreadable: list[str] = []
        self._count = self._seen = 0

    def count(self, record: PartRecord) -> None:
        """Adds a part. Raises ValueError as `check_end` when more parts cannot change the verdict."""
        self._count += record.num_unreadable
        self._seen += record.num_items
        bad = [f"{d.name}: {d.detail}" for d in record.dropped if d.reason == UNREADABLE]
        self._unreadable = [*self._unreadable, *bad][:NAMED_ITEMS]
        if self._num_items is not None:
            self._check(self._num_items)

    def check_end(self) -> None:
        """Raises ValueError naming the first unreadable items."""
        self._check(self._seen)

    def _check(self, num_items: int) -> None:
        if self._count > self._fraction * num_items:
            named = "".join(f"\n  - {line}" for line in self._unreadable)
            raise ValueError(
                f"{self._count} of {num_items} items cannot be read, more than max_unreadable_fraction "
                f"({self._fraction:g}) allows; mend the source, or raise the limit and run the same command again:"
                f"{named}"
            )


def _write_shards(folder: Path, work: Path, selection: Selection, progress: Progress, processes: int) -> None:
    missing: list[ShardTask] = []
    for split, shards in selection.shards.items():
        (folder / split).mkdir(exist_ok=True)
        paths = _shard_paths(folder / split, len(shards))
        absent = set(missing_shards(folder / split, paths))
        missing += [
            ShardTask(path, work / "parts", numbers)
            for path, numbers in zip(paths, shards, strict=True)
            if path in absent
        ]
    total = sum(map(selection.num_samples, selection.shards))
    with progress("writing shards", total) as bar:
        if kept := total - sum(len(task.numbers) for task in missing):
            bar.advance(kept)
        try:
            run_tasks(copy_shard, missing, processes, bar.advance)
        finally:
            for place in (folder, *(folder / split for split in selection.shards)):
                remove_partials(place)


def _shard_paths(folder: Path, count: int) -> list[Path]:
    return [folder / f"{folder.name}-{number:06d}.tar" for number in range(count)]


def _plan(folder: Path) -> dict[str, Any] | None:
    """What the folder is built from, by its unfinished or its finished build; None when it holds neither."""
    plan = folder / WORK_FOLDER / "plan.json"
    if plan.exists():
        return json.loads(plan.read_bytes())
    for split in SPLITS:
        if (folder / split / "index.json").exists():
            return read_manifest(folder / split).metadata
    return None


def _check_folder(settings: BuildSettings) -> None:
    """Raises ValueError when the folder lies in the source, holds other files or a build of other settings."""
    folder = settings.folder
    source = getattr(settings.source, "path", None)
    if source is not None and folder.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"folder {folder} lies in the source {source}, which it would change: choose one outside")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"folder {folder} is a file: choose another folder")
    plan = _plan(folder)
    if plan is None:
        if any(path.name != WORK_FOLDER for path in folder.iterdir()):
            raise ValueError(f"{folder} holds other files and no build: choose an empty or a new folder")
        return
    there, wanted = _flat(plan.get("build", {})), _flat(settings.in_the_bytes())
    differing = [
        f"{name} (there {there.get(name)!r}, wanted {wanted.get(name)!r})"
        for name in sorted(there.keys() | wanted.keys())
        if there.get(name) != wanted.get(name)
    ]
    if differing:
        raise ValueError(
            f"{folder} holds a build with other settings: {', '.join(differing)}. "
            "Choose another folder, restore the settings, or delete the folder to build again"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _listing_hash(blocks: list[Block]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(json.dumps(asdict(block), sort_keys=True).encode())
    return digest.hexdigest()


def _check_listing(folder: Path, listing: str) -> None:
    """Raises ValueError when an unfinished or damaged build began with another source."""
    plan = _plan(folder)
    if plan is not None and plan.get("listing") != listing:
        raise ValueError(
            f"{folder}: the source is not what it was when this build began (files were added, removed or changed in "
            "size); restore it, or delete the folder to build again"
        )


def _reasons(selection: Selection) -> str:
    first = selection.dropped[:NAMED_ITEMS]
    return "; ".join(f"{d.name}: {d.reason}, {d.detail}" for d in first) or "the source is empty"


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """One build at a time. Raises ValueError when another is writing here."""
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another build is writing {work.parent}: wait for it, or stop it first") from None
        yield


class _SilentBar:
    def advance(self, steps: int, detail: str = "") -> None:
        return


def _silent(title: str, total: int) -> AbstractContextManager[Bar]:
    return nullcontext(_SilentBar())
