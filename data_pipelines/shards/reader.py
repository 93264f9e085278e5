"""Reads samples by number: one `pread` a field, checked against the index. No tar is parsed."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from data_pipelines.shards.index import Member, SampleEntry, read_index


class ShardReader:
    """Random access to the samples of one folder of shards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = read_index(folder)
        self.metadata = index.metadata
        self._samples = [(shard.file, sample) for shard, sample in index.samples()]
        self._descriptors: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def entry(self, number: int) -> SampleEntry:
        return self._samples[number][1]

    def read(self, number: int) -> tuple[str, dict[str, bytes]]:
        """Key and fields of a sample.

        Raises FileNotFoundError for a missing shard, ValueError for one that is cut or damaged; both name shard, key
        and byte offset.
        """
        file, sample = self._samples[number]
        return sample.key, {field: self._read(file, sample.key, field, member) for field, member in sample.members.items()}

    def _read(self, file: str, key: str, field: str, member: Member) -> bytes:
        content = os.pread(self._descriptor(file), member.size, member.offset)
        if len(content) != member.size or zlib.crc32(content) != member.crc32:
            what = "ends early" if len(content) != member.size else "is damaged (checksum differs)"
            raise ValueError(
                f"shard {self.folder / file}: sample {key}, field {field}, at byte {member.offset} {what}; "
                f"`unimodel data verify {self.folder}` lists all damage, making the shards again repairs it"
            )
        return content

    def _descriptor(self, file: str) -> int:
        if file not in self._descriptors:
            try:
                self._descriptors[file] = os.open(self.folder / file, os.O_RDONLY)
            except FileNotFoundError:
                raise FileNotFoundError(
                    f"shard {self.folder / file} is in the index but not on disk: restore it or make the shards again"
                ) from None
        return self._descriptors[file]

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])
