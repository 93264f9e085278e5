"""Random access to samples: one read per sample, no tar parsing, every byte checked against the index."""

from __future__ import annotations

import hashlib
import os
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_pipelines.shards.index import ShardEntry, read_manifest
from data_pipelines.shards.table import Member, SampleEntry, SampleTable, open_table, table_path

MAX_OPEN_SHARDS = 128
"""Files and tables kept open by one reader, far below the usual limit of 1,024 files per process."""

DAMAGED = "run `unimodel data verify DIR` to list all damage, delete that shard and run `unimodel data record CONFIG`"


class ShardReader:
    """The samples of one folder (one split), by number.

    Reads are positioned (`pread`), so threads and forked children may share a reader; a pickled reader opens the
    folder anew. Raises FileNotFoundError or ValueError as `read_manifest` does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        self.metadata = manifest.metadata
        self.shards = manifest.shards
        self.shard_samples = np.array([shard.num_samples for shard in self.shards], dtype=np.int64)
        self._ends: list[int] = np.cumsum(self.shard_samples).tolist()
        self.num_samples = manifest.num_samples
        self.num_bytes = sum(shard.size_bytes for shard in self.shards)
        self._open: OrderedDict[int, _OpenFile] = OrderedDict()
        self._tables: OrderedDict[int, SampleTable] = OrderedDict()

    def __len__(self) -> int:
        return self.num_samples

    def __reduce__(self) -> tuple[Callable[[Path], ShardReader], tuple[Path]]:
        return ShardReader, (self.folder,)

    def key(self, number: int) -> str:
        """The key of sample `number`."""
        table, row = self._locate(number)
        return table.key(row)

    def lengths(self, number: int, *names: str) -> list[list[int]]:
        """The lengths of sample `number` by each of `names`. Raises ValueError when the data has none of a name."""
        table, row = self._locate(number)
        try:
            return [table.length(row, name) for name in names]
        except KeyError as missing:
            raise ValueError(
                f"{self.folder}: the samples have no length {missing}, only {sorted(table.length_names)}: "
                "the data was made by another version or for another purpose, make it again"
            ) from None

    def entry(self, number: int) -> SampleEntry:
        """All that the index says of sample `number`."""
        table, row = self._locate(number)
        return table.sample(row)

    def entries(self) -> Iterator[SampleEntry]:
        """`entry` of every sample, in order."""
        return map(self.entry, range(self.num_samples))

    def total_length(self, name: str) -> int:
        """Sum of the lengths called `name` over all samples."""
        return sum(self._table(shard).total(name) for shard in range(len(self.shards)))

    def read(self, number: int) -> tuple[str, dict[str, bytes]]:
        """(key, {field: payload}) of sample `number`.

        Raises FileNotFoundError for a missing shard, ValueError naming shard, sample, field and byte offset for a
        truncated or altered one, IndexError outside 0..len-1.
        """
        shard, row = self._place(number)
        table = self._table(shard)
        key, members = table.key(row), table.members(row)
        # Members stand one behind another, in the order of the shard.
        places = list(members.values())
        first = places[0].offset
        content = os.pread(self._file(shard).descriptor, places[-1].offset + places[-1].size - first, first)
        fields = {}
        for name, member in members.items():
            start = member.offset - first
            fields[name] = self._checked(number, key, name, member, content[start : start + member.size])
        return key, fields

    def read_field(self, number: int, name: str) -> bytes:
        """One field of sample `number`, with the same checks. Raises ValueError also when it has no such field."""
        shard, row = self._place(number)
        table = self._table(shard)
        key, members = table.key(row), table.members(row)
        if name not in members:
            raise ValueError(f"{self._where(number, key, name)}: no such field, it has {sorted(members)}")
        member = members[name]
        payload = os.pread(self._file(shard).descriptor, member.size, member.offset)
        return self._checked(number, key, name, member, payload)

    def close(self) -> None:
        """Closes the open shards; reading again opens them again."""
        self._open.clear()
        self._tables.clear()

    def place(self, number: int) -> tuple[Path, int]:
        """The shard of sample `number` and its number within it. Raises IndexError outside 0..len-1."""
        shard, row = self._place(number)
        return self.folder / self.shards[shard].file, row

    def _place(self, number: int) -> tuple[int, int]:
        if not 0 <= number < self.num_samples:
            raise IndexError(f"sample {number} of {self.folder}: it has samples 0..{self.num_samples - 1}")
        shard = bisect_right(self._ends, number)
        return shard, number - (self._ends[shard - 1] if shard else 0)

    def _locate(self, number: int) -> tuple[SampleTable, int]:
        shard, row = self._place(number)
        return self._table(shard), row

    def _where(self, number: int, key: str, field: str) -> str:
        return f"{self.place(number)[0]}: sample {key}, field {field}"

    def _checked(self, number: int, key: str, name: str, member: Member, payload: bytes) -> bytes:
        """What was read of a member, if it is that."""
        if len(payload) != member.size:
            raise ValueError(
                f"{self._where(number, key, name)} at byte {member.offset}: the shard is truncated, {len(payload)} of "
                f"{member.size} bytes are there: {DAMAGED}"
            )
        if zlib.crc32(payload) != member.crc32:
            raise ValueError(
                f"{self._where(number, key, name)} at byte {member.offset}: the checksum does not match, bytes "
                f"changed: {DAMAGED}"
            )
        return payload

    def _table(self, shard: int) -> SampleTable:
        table = self._tables.get(shard)
        if table is None:
            table = checked_table(self.folder, self.shards[shard])
            _make_room(self._tables)
            self._tables[shard] = table
        return table

    def _file(self, shard: int) -> _OpenFile:
        file = self._open.get(shard)
        if file is None:
            path = self.folder / self.shards[shard].file
            try:
                file = _OpenFile(path)
            except FileNotFoundError:
                raise FileNotFoundError(f"{path} is in the index but missing: {DAMAGED}") from None
            _make_room(self._open)
            self._open[shard] = file
        return file


def checked_table(folder: Path, shard: ShardEntry) -> SampleTable:
    """The table of a shard, if every byte of it is right: all that is read from the shard is found and judged by it.

    Raises FileNotFoundError or ValueError naming the file.
    """
    path = table_path(folder / shard.file)
    try:
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == shard.table_sha256
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: {DAMAGED}") from None
    if not whole:
        raise ValueError(f"{path}: its SHA-256 is not the one in the manifest, bytes changed: {DAMAGED}")
    return open_table(path, shard.num_samples)


def _make_room(opened: OrderedDict) -> None:
    while len(opened) >= MAX_OPEN_SHARDS:
        opened.popitem(last=False)


class _OpenFile:
    """A descriptor that closes when its last user lets go: evicting it never pulls it from under a reading thread."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
