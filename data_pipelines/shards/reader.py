"""Random access to samples: one read per sample, no tar parsing, every byte checked against the index."""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from data_pipelines.shards.cache import BlockCache
from data_pipelines.shards.index import ShardEntry, read_manifest
from data_pipelines.shards.storage import DAMAGED, Folder, Storage, join, make_room, open_storage
from data_pipelines.shards.table import Member, SampleEntry, SampleTable, decode_table

MAX_OPEN_TABLES = 128
"""Tables kept by one reader."""
AHEAD_SAMPLES = 128
"""Fetched ahead by whoever reads in order."""


class ShardReader:
    """The samples of one folder (one split), by number.

    The folder may be an address (`storage.py`); `cache` keeps what is read from there, the host's own when not given.
    Reads are positioned (`pread`), so threads and forked children may share a reader; a pickled reader opens the
    folder anew. Raises FileNotFoundError, ValueError and, for an address, OSError as `read_manifest` does.
    """

    def __init__(self, folder: Folder, cache: BlockCache | None = None) -> None:
        self._storage, self._cache = open_storage(folder, cache), cache
        self.folder = self._storage.folder
        manifest = read_manifest(self.folder, self._storage)
        self.metadata = manifest.metadata
        self.shards = manifest.shards
        self.shard_samples = np.array([shard.num_samples for shard in self.shards], dtype=np.int64)
        self._ends: list[int] = np.cumsum(self.shard_samples).tolist()
        self.num_samples = manifest.num_samples
        self.num_bytes = sum(shard.size_bytes for shard in self.shards)
        self._tables: OrderedDict[int, SampleTable] = OrderedDict()

    def __len__(self) -> int:
        return self.num_samples

    def __reduce__(self) -> tuple[Callable[..., ShardReader], tuple[Folder, BlockCache | None]]:
        return ShardReader, (self.folder, self._cache)

    @property
    def is_remote(self) -> bool:
        """Whether reading ahead is worth while."""
        return isinstance(self.folder, str)

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

    def optional_lengths(self, number: int, *names: str) -> list[list[int]]:
        """The same of lengths that only some data has; nothing where there is none."""
        table, row = self._locate(number)
        return [table.length(row, name) if name in table.length_names else [] for name in names]

    def entry(self, number: int) -> SampleEntry:
        """All that the index says of sample `number`."""
        table, row = self._locate(number)
        return table.sample(row)

    def entries(self) -> Iterator[SampleEntry]:
        """`entry` of every sample, in order."""
        return map(self.entry, range(self.num_samples))

    @property
    def length_names(self) -> list[str]:
        """Names of the lengths that samples have."""
        return sorted({name for shard in range(len(self.shards)) for name in self._table(shard).length_names})

    def all_lengths(self, name: str) -> np.ndarray:
        """int64 [samples that have it] the lengths called `name`, each sample's added up."""
        tables = map(self._table, range(len(self.shards)))
        return np.concatenate([np.zeros(0, dtype=np.int64), *(table.sums(name) for table in tables)])

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
        first, size = _span(members)
        content = self._storage.read_range(self.shards[shard], first, size)
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
        payload = self._storage.read_range(self.shards[shard], member.offset, member.size)
        return self._checked(number, key, name, member, payload)

    def in_order(self, numbers: Sequence[int]) -> Iterator[int]:
        """`numbers` one by one, for someone who reads each: the next ones are fetched ahead from afar."""
        for done, number in enumerate(numbers):
            if done % (AHEAD_SAMPLES // 2) == 0:
                self.read_ahead(numbers[done : done + AHEAD_SAMPLES])
            yield number

    def read_in_order(self, numbers: Sequence[int]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """`read` of each, fetched ahead from afar."""
        return map(self.read, self.in_order(numbers))

    def read_ahead(self, numbers: Sequence[int]) -> None:
        """Has the bytes of these samples, and the tables that tell where they are, brought near in the background.

        Local folders are near. A failure is told by whoever reads the sample.
        """
        if not self.is_remote:
            return
        rows: defaultdict[int, list[int]] = defaultdict(list)
        for number in numbers:
            shard, row = self._place(number)
            rows[shard].append(row)
        for shard, some in rows.items():
            self._storage.in_background(f"{shard} {some}", partial(self._fetch, shard, some))

    def _fetch(self, shard: int, rows: list[int]) -> None:
        table = self._table(shard)
        for row in rows:
            self._storage.fetch_ahead(self.shards[shard], *_span(table.members(row)))

    def close(self) -> None:
        """Closes the open shards; reading again opens them again."""
        self._storage.close()
        self._tables.clear()

    def place(self, number: int) -> tuple[Folder, int]:
        """The shard of sample `number` and its number within it. Raises IndexError outside 0..len-1."""
        shard, row = self._place(number)
        return join(self.folder, self.shards[shard].file), row

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
        if not _is_whole(payload, member):
            entry = self.shards[self._place(number)[0]]
            if self._storage.forget(entry, member.offset, member.size):
                payload = self._storage.read_range(entry, member.offset, member.size)
        if len(payload) != member.size:
            raise ValueError(
                f"{self._where(number, key, name)} at byte {member.offset}: the shard is truncated, {len(payload)} of "
                f"{member.size} bytes are there: {DAMAGED}"
            )
        if not _is_whole(payload, member):
            raise ValueError(
                f"{self._where(number, key, name)} at byte {member.offset}: the checksum does not match, bytes "
                f"changed: {DAMAGED}"
            )
        return payload

    def _table(self, shard: int) -> SampleTable:
        table = self._tables.get(shard)
        if table is None:
            table = checked_table(self._storage, self.shards[shard])
            # Tables of groups of shards that are done would stay resident until they make room.
            for opened in (table, *self._tables.values()):
                opened.let_go()
            make_room(self._tables, MAX_OPEN_TABLES)
            self._tables[shard] = table
        return table


def checked_table(storage: Storage, shard: ShardEntry) -> SampleTable:
    """The table of a shard, if every byte of it is right: all that is read from the shard is found and judged by it.

    Raises FileNotFoundError or ValueError naming the file.
    """
    path = join(storage.folder, shard.table_file)
    try:
        content = storage.read_table(shard)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: {DAMAGED}") from None
    if hashlib.sha256(content).hexdigest() != shard.table_sha256:
        raise ValueError(f"{path}: its SHA-256 is not the one in the manifest, bytes changed: {DAMAGED}")
    return decode_table(content, shard.num_samples, path)


def _span(members: dict[str, Member]) -> tuple[int, int]:
    """First byte and number of bytes from the first to the last member; they stand one behind another."""
    places = list(members.values())
    first = places[0].offset
    return first, places[-1].offset + places[-1].size - first


def _is_whole(payload: bytes, member: Member) -> bool:
    return len(payload) == member.size and zlib.crc32(payload) == member.crc32
