"""Writes one WebDataset shard: a tar of `KEY.FIELD` members that is the same, byte for byte, for the same samples."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from data_pipelines.shards.index import Member, SampleEntry, ShardEntry

BLOCK_BYTES = tarfile.BLOCKSIZE


def write_shard(path: Path, samples: Iterable[tuple[str, dict[str, bytes], dict[str, int]]]) -> ShardEntry:
    """Writes (key, fields, attributes) samples to `path`, which appears whole or not at all.

    Raises ValueError for keys or fields that stock readers would misread, OSError (with the path) for a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    entries: list[SampleEntry] = []
    try:
        with temporary.open("wb") as handle:
            for key, fields, attributes in samples:
                if not key or "." in key or "/" in key:
                    raise ValueError(f"sample key '{key}' must not be empty or hold '.' or '/': readers split names there")
                members = {field: _write_member(handle, f"{key}.{field}", content) for field, content in fields.items()}
                entries.append(SampleEntry(key, members, attributes))
            handle.write(bytes(2 * BLOCK_BYTES))  # a tar ends with two empty blocks
            handle.flush()
            os.fsync(handle.fileno())
        with temporary.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        size = temporary.stat().st_size
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, f"shard {path} could not be written ({error.strerror}): free disk space and run again") from error
    finally:
        temporary.unlink(missing_ok=True)
    return ShardEntry(path.name, size, digest, tuple(entries))


def _write_member(handle: BinaryIO, name: str, content: bytes) -> Member:
    header = tarfile.TarInfo(name)
    header.size = len(content)  # owner, group and time stay 0: same samples, same bytes
    block = header.tobuf(tarfile.USTAR_FORMAT)
    offset = handle.tell() + len(block)
    handle.write(block + content + bytes(-len(content) % BLOCK_BYTES))
    return Member(offset, len(content), zlib.crc32(content))
