"""Where every sample of a folder of shards is: byte offsets, sizes and checksums, so that reading is a seek.

The file format (`index.json`) is known to `write_index` and `read_index` only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipelines.shards.atomic import publish

INDEX_FILE = "index.json"
MAKE_IT = "make it with `unimodel data record CONFIG`"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


@dataclass(frozen=True, slots=True)
class Member:
    """One field of a sample: its payload is `size` bytes at byte `offset` of the shard, with CRC-32 `crc32`."""

    offset: int
    size: int
    crc32: int


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """A sample: its members by field name, in shard order, and small integers about it (e.g. num_frames)."""

    key: str
    members: dict[str, Member]
    attributes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One tar file of the folder."""

    file: str
    size_bytes: int
    sha256: str
    samples: tuple[SampleEntry, ...]


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """All shards of a folder, in order, and JSON-able metadata about how they were made."""

    shards: tuple[ShardEntry, ...]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        return sum(len(shard.samples) for shard in self.shards)

    def samples(self) -> Iterator[tuple[ShardEntry, SampleEntry]]:
        """Every (shard, sample), in order."""
        for shard in self.shards:
            for sample in shard.samples:
                yield shard, sample


def write_index(folder: Path, index: ShardIndex) -> None:
    """Publishes the index atomically: from here on the folder is a complete data set. Equal indices, equal bytes."""
    content = {"metadata": index.metadata, "shards": [shard_to_json(shard) for shard in index.shards]}
    publish(folder / INDEX_FILE, json.dumps(content, separators=(",", ":")).encode())


def read_index(folder: Path) -> ShardIndex:
    """Raises FileNotFoundError when there is no index and ValueError, naming the file, when it is malformed."""
    path = folder / INDEX_FILE
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        found = "has no index.json" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(f"data folder {folder} {found}: {MAKE_IT}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): delete it and {MAKE_IT}") from None
    try:
        if not isinstance(content["metadata"], dict):
            raise ValueError("metadata is not an object")
        return ShardIndex(tuple(shard_from_json(shard) for shard in content["shards"]), content["metadata"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is malformed ({type(error).__name__}: {error}): delete it and {MAKE_IT}") from None


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders of shards under `folder` by split name: itself if it has an index, else its subfolders that do.

    Raises FileNotFoundError when there is none.
    """
    if (folder / INDEX_FILE).is_file():
        return {folder.name: folder}
    indices = sorted(folder.glob(f"*/{INDEX_FILE}"))
    if not indices:
        what = "holds no finished data" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(f"data folder {folder} {what}: {MAKE_IT}")
    return {path.parent.name: path.parent for path in indices}


def shard_to_json(shard: ShardEntry) -> dict[str, Any]:
    samples = [
        [sample.key, {name: [m.offset, m.size, m.crc32] for name, m in sample.members.items()}, sample.attributes]
        for sample in shard.samples
    ]
    return {"file": shard.file, "size_bytes": shard.size_bytes, "sha256": shard.sha256, "samples": samples}


def shard_from_json(content: dict[str, Any]) -> ShardEntry:
    """The reverse of `shard_to_json`. Raises ValueError for a file name that leaves the folder or wrong numbers."""
    name = content["file"]
    if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name):
        raise ValueError(f"shard file {name!r} is not a plain file name inside the folder, refusing to open it")
    samples = tuple(_sample(*sample) for sample in content["samples"])
    return ShardEntry(name, _natural(content["size_bytes"]), str(content["sha256"]), samples)


def _sample(key: str, members: dict[str, list[int]], attributes: dict[str, int]) -> SampleEntry:
    if not isinstance(key, str):
        raise ValueError(f"sample key {key!r} is not a string")
    return SampleEntry(
        key,
        {name: Member(*(_natural(number) for number in member)) for name, member in members.items()},
        {name: int(number) for name, number in attributes.items()},
    )


def _natural(number: Any) -> int:
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"{number!r} where a size or an offset is expected")
    return number
