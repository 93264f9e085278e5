"""A folder of shards in the making: every finished shard has its manifest entry beside it until all are done.

Whoever writes shards one by one, on any number of processes, continues after an interruption with those that are
missing and ends with the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.shards.atomic import publish
from data_pipelines.shards.index import INDEX_FILE, Manifest, ShardEntry, checked_entry, read_manifest, write_manifest
from data_pipelines.shards.table import table_path
from data_pipelines.shards.writer import file_sha256


def sidecar_path(shard: Path) -> Path:
    """Where a finished shard keeps its manifest entry until the whole folder is done."""
    return shard.with_name(f".{shard.name}.done")


def publish_sidecar(shard: Path, entry: dict[str, Any]) -> None:
    """Says that `shard` is whole; `entry["shard"]` is its manifest entry as a dict."""
    publish(sidecar_path(shard), json.dumps(entry, separators=(",", ":")).encode())


def read_sidecars(folder: Path) -> dict[str, dict[str, Any]]:
    """What the sidecars of an unfinished folder say, by shard file name."""
    entries: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob(".*.tar.done")):
        entry = json.loads(path.read_bytes())
        entries[entry["shard"]["file"]] = entry
    return entries


def is_complete(folder: Path) -> bool:
    """The manifest is there and so is every shard, at its full size. (`data verify` reads all bytes; this does not.)"""
    if not (folder / INDEX_FILE).exists():
        return False
    return all(is_there(folder / shard.file, shard.size_bytes) for shard in read_manifest(folder).shards)


def is_there(shard: Path, size: int) -> bool:
    """A shard of this size and a table stand in the folder."""
    return shard.is_file() and shard.stat().st_size == size and table_path(shard).is_file()


def known_shards(folder: Path) -> dict[str, ShardEntry]:
    """Entries, by file name, of the shards that a manifest or a sidecar of `folder` vouches for."""
    indexed = {s.file: s for s in read_manifest(folder).shards} if (folder / INDEX_FILE).exists() else {}
    return indexed | {name: checked_entry(**entry["shard"]) for name, entry in read_sidecars(folder).items()}


def missing_shards(folder: Path, shards: Sequence[Path]) -> list[Path]:
    """Those of `shards` that are absent or are not, byte for byte, what their entry says."""
    known = known_shards(folder)

    def intact(path: Path) -> bool:
        entry = known.get(path.name)
        if entry is None or not is_there(path, entry.size_bytes):
            return False
        return file_sha256(path) == entry.sha256 and file_sha256(table_path(path)) == entry.table_sha256

    return [path for path in shards if not intact(path)]


def finish_folder(folder: Path, shards: Sequence[Path], metadata: dict[str, Any]) -> None:
    """Writes the manifest from what is known of its shards, then drops the sidecars."""
    known = known_shards(folder)
    write_manifest(folder, Manifest(tuple(known[path.name] for path in shards), metadata))
    for path in shards:
        sidecar_path(path).unlink(missing_ok=True)
