"""Memory that outlives the process: records of a world in a folder, found again by key or by pose.

    STORE/manifest.sqlite       what is committed
    STORE/segments/             the records, in files that are mapped into memory
    STORE/lock                  held by the one process that writes

Every change is on the disk and then committed, in this order, before its method returns. After kill -9 at any moment
the store opens at the last commit; what the killed process had written after it is removed.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from unimodel.memory.forgetting import count_to_forget, least_worth_first, require_room_for_one
from unimodel.memory.index import Index, as_queries
from unimodel.memory.manifest import Manifest, State, is_created, open_manifest
from unimodel.memory.record import (
    ANYWHERE,
    UNSTORED,
    EncodeKeys,
    ForgetPolicy,
    Hits,
    Record,
    StoreSettings,
    Where,
    encode,
    record_bytes,
    require_model,
)
from unimodel.memory.rewriting import compact_run, reencode_segment, runs_to_compact, write_branch
from unimodel.memory.segments import (
    SEGMENTS_FOLDER,
    Damage,
    Segment,
    SegmentEntry,
    lay_out,
    remove_uncommitted,
    write_synced,
)
from unimodel.memory.writer_lock import WriterLock
from unimodel.run_folder import sync_folder

LOCK = "lock"
_FILES_OF_A_SEGMENT = 3
_NOWHERE = np.empty(0, np.int64)

Ids = Sequence[int] | np.ndarray


def stored_settings(path: Path) -> StoreSettings:
    """What the store in `path` was made for. Raises FileNotFoundError when there is none."""
    manifest = open_manifest(path, read_only=True)
    try:
        return manifest.snapshot().state.settings
    finally:
        manifest.close()


class MemoryStore:
    """An open store. It may be used from any thread, by one at a time; close it, or use it in a `with` block.

    All methods that change it raise OSError when the disk is full or fails: nothing that was committed is lost, and
    the store goes on when there is room again. In a store that was opened read-only they raise io.UnsupportedOperation.
    """

    def __init__(self, path: Path, model_hash: str, *, read_only: bool = False) -> None:
        """Opens the store in `path` for the model that has written it.

        Raises FileNotFoundError when there is none, ValueError when another model has written it or a file is damaged,
        RunError naming the process that has it open for writing. A reader sees the last commit at its opening; any
        number of them may read while one process writes.
        """
        self.path = path
        self._folder = path / SEGMENTS_FOLDER
        self._manifest = open_manifest(path, read_only=read_only)
        self._lock: WriterLock | None = None
        self._model_hash = model_hash
        self._is_current = self._is_settled = True
        self._threads = ThreadPoolExecutor(_FILES_OF_A_SEGMENT)
        try:
            if not read_only:
                self._lock = WriterLock(path / LOCK)
            self.refresh()
            if not read_only:
                remove_uncommitted(self._folder, self._index.entries, self.settings)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, settings: StoreSettings) -> Self:
        """A new, empty store, open for writing. Raises FileExistsError when there is one already."""
        (path / SEGMENTS_FOLDER).mkdir(parents=True, exist_ok=True)
        lock = WriterLock(path / LOCK)
        try:
            if is_created(path):
                raise FileExistsError(f"{path} holds a store already: open it, or choose another folder")
            Manifest.create(path, settings)
            sync_folder(path)
            sync_folder(path.parent)
        finally:
            lock.release()
        return cls(path, settings.model_hash)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Everything is committed already; this lets the next writer in."""
        self._threads.shutdown()
        self._manifest.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def settings(self) -> StoreSettings:
        return self._state.settings

    @property
    def next_id(self) -> int:
        """The id of the record that is written next; all ids are below it."""
        return self._state.next_id

    def __len__(self) -> int:
        """Records that are not forgotten."""
        return len(self._index)

    @property
    def nbytes(self) -> int:
        """Bytes of the records that are not forgotten: what `forget` compares with its budget."""
        return self._index.nbytes

    @property
    def disk_bytes(self) -> int:
        """Bytes of all files, with what is forgotten and not compacted away yet."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def refresh(self) -> None:
        """Shows a reader what has been committed since it opened. Raises ValueError as opening does."""
        while True:
            snapshot = self._manifest.snapshot()
            settings = snapshot.state.settings
            require_model(self.path, settings, self._model_hash)
            try:
                segments = [
                    Segment(self._folder, entry, settings, snapshot.forgotten.get(entry.number, _NOWHERE))
                    for entry in snapshot.entries
                ]
            except ValueError:
                if self._manifest.snapshot().entries == snapshot.entries:
                    raise
                continue  # the writer has compacted in between
            self._state: State = snapshot.state
            self._index = Index(segments)
            self._is_current = True
            return

    def append(self, records: Sequence[Record]) -> np.ndarray:
        """Stores all of `records` or, when it raises, none. Returns their ids int64 [n], which ascend.

        Raises ValueError for a record that does not fit the settings, naming its place in `records`.
        """
        self._require_writable()
        if not records:
            return np.empty(0, np.int64)
        state, entries = self._state, self._index.entries
        encoded = encode(records, state.settings, state.next_id)
        grown, writes = lay_out(
            encoded,
            entries[-1] if entries else None,
            state.next_segment,
            state.generation,
            self._folder,
            state.settings,
        )
        write_synced(writes, self._threads)
        number = max(state.next_segment, grown[-1].number + 1)
        state = replace(state, next_id=state.next_id + len(records), next_segment=number)
        with self._change():
            self._put(state, grown)
        for entry in grown:
            self._index.replace_tail(Segment(self._folder, entry, state.settings, _NOWHERE))
        self._state, self._is_current = state, True
        return encoded.rows["id"].astype(np.int64)

    def search(self, query: np.ndarray, k: int, where: Where = ANYWHERE) -> Hits:
        """The k records with the largest dot product of key and `query` [q, dim], exactly.

        Raises ValueError for another shape, a value that is not finite, k < 1, or a damaged key among the hits. A key
        that damage has made unlike the query is not among them: `damages` finds it.
        """
        return self._index.search_keys(as_queries(query, self.settings.dim, np.float32), k, where)

    def search_pose(self, pose: np.ndarray, k: int, where: Where = ANYWHERE) -> Hits:
        """The k records whose pose is nearest to `pose` [q, pose_dims]; scores are minus the distance. Raises as
        `search` does."""
        if not self.settings.pose_dims:
            raise ValueError(f"records of {self.path} have no pose: its pose_dims are 0")
        return self._index.search_poses(as_queries(pose, self.settings.pose_dims, np.float64), k, where)

    def read(self, ids: Ids) -> list[Record]:
        """The records, in the order of `ids`. Raises LookupError for one that is not there, ValueError naming file and
        byte for one that is damaged."""
        found, used = self._index.find(ids), self._manifest.last_used(ids)
        return [segment.record(place, last) for (segment, place), last in zip(found, used, strict=True)]

    def mark_used(self, ids: Ids, step: int) -> None:
        """Says that they were retrieved at `step`. A kill loses no mark; a power cut may lose those since the last
        change of another kind. Raises LookupError for one that is not there."""
        self._require_writable()
        self._index.find(ids)
        with self._change(is_durable=False):
            self._manifest.mark_used(ids, step)
        self._is_current = True

    def remove(self, ids: Ids) -> None:
        """Forgets these. Raises LookupError for one that is not there."""
        self._require_writable()
        self._forget((segment, np.array([place])) for segment, place in self._index.find(ids))

    def forget(self, budget_bytes: int, policy: ForgetPolicy) -> np.ndarray:
        """Forgets until `nbytes` is at most `budget_bytes`; returns the ids, ascending. `compact` then gives the disk
        the room. Raises ValueError when not one record would be left."""
        self._require_writable()
        require_room_for_one(budget_bytes, self.settings)
        rows, owners, places = self._index.live()
        order = least_worth_first(rows, ForgetPolicy(policy), *self._manifest.all_used())
        gone = order[: count_to_forget(record_bytes(rows, self.settings)[order], budget_bytes)]
        segments = self._index.segments
        self._forget((segments[own], places[gone[owners[gone] == own]]) for own in np.unique(owners[gone]))
        return np.sort(rows["id"][gone])

    def damages(self) -> list[Damage]:
        """Every record whose bytes are not those that were written. Reads all of the store."""
        return self._index.damages()

    def drop_damaged(self) -> list[Damage]:
        """Forgets what `damages` finds, and returns it."""
        self._require_writable()
        damages = self.damages()
        owners = {segment.entry.number: segment for segment in self._index.segments}
        self._forget((owners[damage.segment], np.array([damage.place])) for damage in damages)
        return damages

    def rewind(self, *, last_id: int | None = None, last_step: int | None = None) -> int:
        """Drops the records after `last_id`, or those of steps after `last_step`, and returns how many. The ids after
        the last record that stays are given again. What was forgotten since then stays forgotten."""
        self._require_writable()
        if (last_id is None) == (last_step is None):
            raise ValueError("rewind goes to a last_id or to a last_step: give one of them")
        before = len(self)
        if last_step is not None:
            last_id = max((segment.last_id_until(last_step) for segment in self._index.segments), default=UNSTORED)
        assert last_id is not None
        next_id = min(max(last_id, UNSTORED) + 1, self.next_id)
        with self._change():
            for segment in self._index.segments:
                self._cut(segment, int(np.searchsorted(segment.ids, next_id)), last_step)
            self._manifest.rewind_used(next_id, last_step)
            self._manifest.put_state(replace(self._state, next_id=next_id))
        self._clean()
        return before - len(self)

    def compact(self) -> None:
        """Writes what is not forgotten into full segments and gives the room of the rest back to the disk; ids stay.
        Needs room for the new files beside the old ones. Raises ValueError when a record is damaged."""
        self._require_writable()
        state = self._state
        try:
            runs = list(runs_to_compact(self._index.segments, state.settings))
            entries, number = list[SegmentEntry](), state.next_segment
            for run in runs:
                entries += compact_run(run, number, state.generation, self._folder, state.settings, self._threads)
                number = max([number - 1, *(entry.number for entry in entries)]) + 1
            with self._change():
                for segment in itertools.chain.from_iterable(runs):
                    self._manifest.drop_segment(segment.entry.number)
                self._put(replace(state, next_segment=number), entries)
        finally:
            self._clean()

    def reencode(self, encode: EncodeKeys, model_hash: str, key_version: int) -> None:
        """Hands the store over to another model: `encode` gives the keys [n, dim] of records, which it finds by their
        tokens, actions and texts. The store then opens for `model_hash` alone.

        All keys change in one commit. Raises ValueError unless `key_version` grows, for keys that do not fit, and when
        a record is damaged.
        """
        self._require_writable()
        if key_version <= self.settings.key_version:
            raise ValueError(f"key_version must grow: {key_version} does not follow {self.settings.key_version}")
        settings = replace(self.settings, model_hash=model_hash, key_version=key_version)
        state = replace(self._state, settings=settings, generation=self._state.generation + 1)
        try:
            entries = [
                reencode_segment(segment, self._records_at, encode, state.generation, settings, self._threads)
                for segment in self._index.segments
            ]
            with self._change():
                self._put(state, entries)
            self._model_hash = model_hash
        finally:
            self._clean()

    def branch(self, path: Path) -> None:
        """A store of its own in the new folder `path`, with what this one holds now. The segments that no longer grow
        are shared by hard link, so a branch costs little; damage to such a file damages both.

        Raises FileExistsError when `path` is there. It appears whole or not at all.
        """
        self._require_writable()
        if path.exists():
            raise FileExistsError(f"{path} is there already: choose another folder for the branch")
        write_branch(path, self._index.entries, self._folder, self._manifest, self.settings)

    def _cut(self, segment: Segment, kept: int, last_step: int | None) -> None:
        """Within a change: leaves the first `kept` rows, without those of later steps."""
        number = segment.entry.number
        if kept == 0:
            self._manifest.drop_segment(number)
            return
        if kept < segment.entry.rows:
            self._manifest.put_segment(segment.cut(kept))
            self._manifest.unforget(number, kept)
        if last_step is not None:
            later = np.flatnonzero(segment.rows["step"][:kept] > last_step)
            self._manifest.forget(number, later)

    def _put(self, state: State, entries: Sequence[SegmentEntry]) -> None:
        for entry in entries:
            self._manifest.put_segment(entry)
        self._manifest.put_state(state)

    def _forget(self, places: Iterable[tuple[Segment, np.ndarray]]) -> None:
        places = list(places)
        with self._change():
            for segment, own in places:
                self._manifest.forget(segment.entry.number, own)
                self._manifest.unmark_used(segment.rows["id"][own])
        for segment, own in places:
            segment.forget(own)
        self._is_current = True

    def _records_at(self, segment: Segment, places: np.ndarray) -> list[Record]:
        used = self._manifest.last_used(segment.rows["id"][places])
        return [segment.record(int(place), last) for place, last in zip(places, used, strict=True)]

    def _require_writable(self) -> None:
        if self._lock is None:
            raise io.UnsupportedOperation(
                f"{self.path} is open read-only (or closed): open it for writing to change it"
            )
        self._lock.require()
        self._settle()

    @contextmanager
    def _change(self, *, is_durable: bool = True) -> Iterator[None]:
        """A transaction. `_is_current` is false until memory follows it too, so an interrupt in between is harmless."""
        self._is_settled = self._is_current = False
        with self._manifest.transaction(is_durable=is_durable):
            yield
        self._is_settled = True

    def _settle(self) -> None:
        """After a change that failed or was interrupted: what is committed is what counts, here and after a kill."""
        if not self._is_settled:
            self._manifest.settle()
            self._is_settled = True
        if not self._is_current:
            self.refresh()

    def _clean(self) -> None:
        """Leaves the files that are committed, whether a change of them was or not."""
        self._is_current = False
        self._settle()
        remove_uncommitted(self._folder, self._index.entries, self.settings)
