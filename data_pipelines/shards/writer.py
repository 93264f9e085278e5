"""WebDataset shards: plain ustar files whose bytes are a pure function of their samples."""

from __future__ import annotations

import hashlib
import re
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_pipelines.shards.atomic import atomic_file, publish
from data_pipelines.shards.index import ShardEntry
from data_pipelines.shards.table import Lengths, Member, SampleEntry, encode_table, table_path

KEY = re.compile(r"[A-Za-z0-9_\-]+")
FIELD = re.compile(r"[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*")
HASH_CHUNK = 1 << 20


def write_shard(path: Path, samples: Iterable[tuple[str, dict[str, bytes], Lengths]]) -> ShardEntry:
    """Writes `(key, {field: payload}, lengths)` samples to a new tar at `path`, which appears whole or not at all, and
    then its table.

    Samples are consumed one at a time. Raises ValueError for a key or field that WebDataset could not split again, a
    key given twice or no samples; OSError naming `path` when the disk is full.
    """
    entries: list[SampleEntry] = []
    seen: set[str] = set()
    digest = hashlib.sha256()
    offset = 0
    with atomic_file(path) as file:
        for key, fields, lengths in samples:
            _check_names(path, key, fields, seen)
            members: dict[str, Member] = {}
            for name, payload in fields.items():
                header = member_header(f"{key}.{name}", len(payload))
                members[name] = Member(offset + len(header), len(payload), zlib.crc32(payload))
                for piece in (header, payload, bytes(-len(payload) % tarfile.BLOCKSIZE)):
                    offset += file.write(piece)
                    digest.update(piece)
            entries.append(SampleEntry(key, members, {name: _list(value) for name, value in lengths.items()}))
        if not entries:
            raise ValueError(f"{path}: a shard needs at least one sample")
        # The end of a tar: two empty blocks, filled up to a whole record.
        end = offset + 2 * tarfile.BLOCKSIZE
        tail = bytes(end + -end % tarfile.RECORDSIZE - offset)
        offset += file.write(tail)
        digest.update(tail)
    table = encode_table(entries)
    publish(table_path(path), table)
    return ShardEntry(path.name, len(entries), offset, digest.hexdigest(), hashlib.sha256(table).hexdigest())


def member_header(name: str, size: int) -> bytes:
    """The 512-byte ustar header of a member: no time, no owner, so that equal samples give equal shards.

    Raises ValueError when the name is too long for ustar (about 100 bytes) or the payload is 8 GiB or more.
    """
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    info.mtime = 0
    return info.tobuf(format=tarfile.USTAR_FORMAT)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _list(value: int | Sequence[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def _check_names(path: Path, key: str, fields: dict[str, bytes], seen: set[str]) -> None:
    if not KEY.fullmatch(key):
        raise ValueError(f"{path}: sample key {key!r} may only have letters, digits, _ and - (a dot begins the field)")
    if key in seen:
        raise ValueError(f"{path}: sample key {key!r} is given twice")
    seen.add(key)
    if not fields:
        raise ValueError(f"{path}: sample {key} has no fields")
    for name in fields:
        # Stock readers lower-case field names: two that differ only in case would become one.
        if not FIELD.fullmatch(name) or name != name.lower():
            raise ValueError(f"{path}: field name {name!r} of sample {key} must be lower-case words joined by dots")
