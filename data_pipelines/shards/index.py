"""The index of a folder of shards: where every sample's every field lies, how long it is, and its checksum.

Kept beside the shards as `index.json`. Reading a sample is then one seek instead of parsing a tar.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INDEX_FILE = "index.json"


@dataclass(frozen=True, slots=True)
class Member:
    """One field of one sample: byte offset and size of its payload in the tar, and the payload's CRC-32."""

    offset: int
    size: int
    crc32: int


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """One sample; `attributes` are small counts known at writing, such as `num_frames`."""

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
    """All shards of a folder, in order; `metadata` says what made them."""

    shards: tuple[ShardEntry, ...]
    metadata: dict[str, Any]

    @property
    def num_samples(self) -> int:
        return sum(len(shard.samples) for shard in self.shards)

    def samples(self) -> Iterator[tuple[ShardEntry, SampleEntry]]:
        for shard in self.shards:
            for sample in shard.samples:
                yield shard, sample


def shard_to_json(shard: ShardEntry) -> dict[str, Any]:
    samples = [
        [s.key, {name: [m.offset, m.size, m.crc32] for name, m in s.members.items()}, s.attributes] for s in shard.samples
    ]
    return {"file": shard.file, "size_bytes": shard.size_bytes, "sha256": shard.sha256, "samples": samples}


def shard_from_json(value: dict[str, Any]) -> ShardEntry:
    """Raises ValueError for a shard file name that leaves the folder."""
    name = value["file"]
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"shard file '{name}' is not a plain file name")
    samples = tuple(
        SampleEntry(key, {name: Member(*numbers) for name, numbers in members.items()}, attributes)
        for key, members, attributes in value["samples"]
    )
    return ShardEntry(name, value["size_bytes"], value["sha256"], samples)


def write_index(folder: Path, index: ShardIndex) -> None:
    """Publishes the index: from here on the folder is a complete data set."""
    value = {"metadata": index.metadata, "shards": [shard_to_json(shard) for shard in index.shards]}
    publish(folder / INDEX_FILE, json.dumps(value, separators=(",", ":")).encode())


def read_index(folder: Path) -> ShardIndex:
    """Raises FileNotFoundError when there is no index, ValueError when it is malformed."""
    path = folder / INDEX_FILE
    if not path.exists():
        raise FileNotFoundError(f"no shards in {folder} ({INDEX_FILE} is missing): make them with `unimodel data record CONFIG`")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return ShardIndex(tuple(shard_from_json(shard) for shard in value["shards"]), value["metadata"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete the folder and make the shards again") from None


def publish(path: Path, content: bytes) -> None:
    """Writes beside, syncs, renames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
