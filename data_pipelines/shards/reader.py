"""Random access to samples: one seek per field, no tar parsing, every byte checked against the index."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

from data_pipelines.shards.index import SampleEntry, ShardEntry, read_index

MAX_OPEN_SHARDS = 128
"""Files kept open by one reader, far below the usual limit of 1,024 per process."""

DAMAGED = "run `unimodel data verify DIR` to list all damage, delete that shard and run `unimodel data record CONFIG`"


class ShardReader:
    """The samples of one folder (one split), by number.

    Reads are positioned (`pread`), so threads and forked children may share a reader; a pickled reader opens the
    folder anew. Raises FileNotFoundError or ValueError as `read_index` does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        index = read_index(self.folder)
        self.metadata = index.metadata
        self.num_shards = len(index.shards)
        self.num_bytes = sum(shard.size_bytes for shard in index.shards)
        located = list(index.samples())
        self._shards = [shard for shard, _ in located]
        self.entries: list[SampleEntry] = [sample for _, sample in located]
        self._open: dict[str, _OpenFile] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __reduce__(self) -> tuple[Callable[[Path], ShardReader], tuple[Path]]:
        return ShardReader, (self.folder,)

    def entry(self, number: int) -> SampleEntry:
        """What the index says of sample `number`."""
        return self.entries[number]

    def read(self, number: int) -> tuple[str, dict[str, bytes]]:
        """(key, {field: payload}) of sample `number`.

        Raises FileNotFoundError for a missing shard, ValueError naming shard, sample, field and byte offset for a
        truncated or altered one, IndexError outside 0..len-1.
        """
        if not 0 <= number < len(self.entries):
            raise IndexError(f"sample {number} of {self.folder}: it has samples 0..{len(self.entries) - 1}")
        return self.entries[number].key, {name: self.read_field(number, name) for name in self.entries[number].members}

    def read_field(self, number: int, name: str) -> bytes:
        """One field of sample `number`, with the same checks. Raises ValueError also when it has no such field."""
        shard, sample = self._shards[number], self.entries[number]
        where = f"{self.folder / shard.file}: sample {sample.key}, field {name}"
        if name not in sample.members:
            raise ValueError(f"{where}: no such field, it has {sorted(sample.members)}")
        member = sample.members[name]
        file = self._file(shard)
        payload = os.pread(file.descriptor, member.size, member.offset)
        if len(payload) != member.size:
            raise ValueError(
                f"{where} at byte {member.offset}: the shard is truncated, {len(payload)} of {member.size} bytes are "
                f"there: {DAMAGED}"
            )
        if zlib.crc32(payload) != member.crc32:
            raise ValueError(f"{where} at byte {member.offset}: the checksum does not match, bytes changed: {DAMAGED}")
        return payload

    def close(self) -> None:
        """Closes the open shards; reading again opens them again."""
        self._open.clear()

    def _file(self, shard: ShardEntry) -> _OpenFile:
        file = self._open.get(shard.file)
        if file is None:
            try:
                file = _OpenFile(self.folder / shard.file)
            except FileNotFoundError:
                raise FileNotFoundError(f"{self.folder / shard.file} is in the index but missing: {DAMAGED}") from None
            for oldest in list(self._open)[: max(0, len(self._open) - MAX_OPEN_SHARDS + 1)]:
                self._open.pop(oldest, None)
            self._open[shard.file] = file
        return file


class _OpenFile:
    """A descriptor that closes when its last user lets go: evicting it never pulls it from under a reading thread."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
