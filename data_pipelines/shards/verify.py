"""Finds every damaged byte of a data set and names the sample it belongs to."""

from __future__ import annotations

import tarfile
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from data_pipelines.shards.cache import BlockCache
from data_pipelines.shards.foreign import INDEXED
from data_pipelines.shards.index import ShardEntry, read_manifest, split_folders
from data_pipelines.shards.reader import checked_table
from data_pipelines.shards.storage import Folder, Storage, join, open_storage
from data_pipelines.shards.table import SampleEntry
from data_pipelines.shards.writer import file_sha256, member_header
from data_pipelines.sources.sample import decode_sample

BLOCK = tarfile.BLOCKSIZE
DECODED_KINDS = ("episodes", "samples")
"""`kind` in the manifest of what was recorded or built here: every sample must decode."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong. `key`, `field` and `offset` (bytes into the shard) are empty or -1 where they do not apply;
    damage outside any payload (a tar header, padding) names the sample whose member it belongs to."""

    shard: str
    key: str
    field: str
    offset: int
    what: str

    def __str__(self) -> str:
        sample = f": sample {self.key}" if self.key else ""
        field = f", field {self.field}" if self.field else ""
        place = f", byte {self.offset}" if self.offset >= 0 else ""
        return f"{self.shard}{sample}{field}{place}: {self.what}"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was read, summed over all splits, and all that is wrong with it."""

    folder: Folder
    splits: tuple[str, ...]
    num_shards: int
    num_samples: int
    num_bytes: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class _Place:
    """A member in shard order; it owns the bytes from its header to the end of its padding."""

    key: str
    field: str
    offset: int
    size: int
    crc32: int

    @property
    def header(self) -> int:
        return self.offset - BLOCK

    @property
    def stop(self) -> int:
        return self.offset + self.size + -self.size % BLOCK


def verify_dataset(folder: Folder) -> VerifyReport:
    """Reads every byte of every split: sizes, SHA-256 of shards and tables, CRC-32 of fields, tar structure,
    decodability of samples, duplicate keys, files that do not belong. Of an address all is downloaded, a shard at a
    time; files that do not belong are not found where files cannot be listed (http).

    Raises FileNotFoundError when there is no manifest and ValueError when one is malformed; all other damage is in
    the report. OSError when an address cannot be read.
    """
    splits = split_folders(folder)
    manifests = {split: read_manifest(path) for split, path in splits.items()}
    problems: list[Problem] = []
    seen: Counter[str] = Counter()
    for split, manifest in manifests.items():
        # What the host has downloaded before says nothing about what lies there now.
        storage = open_storage(splits[split], BlockCache(Path(), limit_bytes=0))
        for shard in manifest.shards:
            path = str(join(splits[split], shard.file))
            try:
                samples = list(checked_table(storage, shard).samples())
            except (FileNotFoundError, ValueError) as error:
                problems.append(Problem(str(join(splits[split], shard.table_file)), "", "", -1, str(error)))
                continue
            if manifest.metadata.get("kind") == INDEXED:
                seen.clear()  # tars made elsewhere may count their keys from 0 each
            seen.update(sample.key for sample in samples)
            decodes = manifest.metadata.get("kind") in DECODED_KINDS
            problems += [replace(problem, shard=path) for problem in _verify_copy(storage, shard, samples, decodes)]
            problems += [
                Problem(path, sample.key, "", -1, "this key is used more than once in the data set")
                for sample in samples
                if seen[sample.key] > 1
            ]
        problems += _strangers(storage, manifest.shards)
    shards = [shard for manifest in manifests.values() for shard in manifest.shards]
    return VerifyReport(
        folder=folder,
        splits=tuple(splits),
        num_shards=len(shards),
        num_samples=sum(manifest.num_samples for manifest in manifests.values()),
        num_bytes=sum(shard.size_bytes for shard in shards),
        problems=tuple(problems),
    )


def _verify_copy(storage: Storage, shard: ShardEntry, samples: list[SampleEntry], decodes: bool) -> list[Problem]:
    try:
        with storage.local_copy(shard.file) as path:
            return _verify_shard(path, shard, samples, decodes)
    except FileNotFoundError:
        what = f"the file is missing, it held {len(samples)} samples: run `unimodel data record CONFIG`"
        return [Problem(shard.file, "", "", -1, what)]


def _verify_shard(path: Path, shard: ShardEntry, samples: list[SampleEntry], decodes: bool) -> list[Problem]:
    places = sorted(
        (_Place(s.key, f, m.offset, m.size, m.crc32) for s in samples for f, m in s.members.items()),
        key=lambda place: place.offset,
    )
    size = path.stat().st_size
    problems: list[Problem] = []
    if size < shard.size_bytes:
        problems.append(_truncated(path, shard, samples, places, size))
    elif size > shard.size_bytes:
        what = f"{size - shard.size_bytes} bytes too many at the end"
        problems.append(Problem(str(path), "", "", shard.size_bytes, what))
    with path.open("rb") as file:
        problems += [p for place in places if place.stop <= size for p in _verify_member(path, file, place)]
        if file_sha256(path) != shard.sha256 and not problems:
            problems.append(_between_members(path, file, places, size))
        damaged = {problem.key for problem in problems}
        for sample in samples if decodes else []:
            whole = all(member.offset + member.size <= size for member in sample.members.values())
            if sample.key not in damaged and whole:
                fields = {name: _read(file, member.offset, member.size) for name, member in sample.members.items()}
                problems += _verify_decodes(path, sample.key, fields)
    return problems


def _truncated(path: Path, shard: ShardEntry, samples: list[SampleEntry], places: list[_Place], size: int) -> Problem:
    """The first sample that the cut reaches."""
    lost = [place for place in places if place.stop > size]
    place = lost[0] if lost else places[-1]
    whole = [s for s in samples if all(m.offset + m.size <= size for m in s.members.values())]
    what = f"the file is cut to {size} of {shard.size_bytes} bytes: {len(samples) - len(whole)} samples are lost"
    return Problem(str(path), place.key, place.field if lost else "", size, what)


def _verify_member(path: Path, file: BinaryIO, place: _Place) -> list[Problem]:
    """The tar header must agree with the index and the payload with its checksum."""
    problems: list[Problem] = []
    try:
        header = tarfile.TarInfo.frombuf(_read(file, place.header, BLOCK), "utf-8", "strict")
        if not _is_name_of(header.name, f"{place.key}.{place.field}") or header.size != place.size:
            what = f"the tar header says {header.name} with {header.size} bytes, the index {place.size} bytes"
            problems.append(Problem(str(path), place.key, place.field, place.header, what))
    except (tarfile.HeaderError, UnicodeDecodeError, ValueError) as error:
        problems.append(Problem(str(path), place.key, place.field, place.header, f"damaged tar header ({error})"))
    if zlib.crc32(_read(file, place.offset, place.size)) != place.crc32:
        what = f"the checksum of these {place.size} bytes does not match, bytes changed"
        problems.append(Problem(str(path), place.key, place.field, place.offset, what))
    return problems


def _is_name_of(found: str, name: str) -> bool:
    """Tars made elsewhere may have capitals in field names, and long or non-ASCII names in a header of their own before
    this one, which then holds what fits."""
    plain = name.encode("ascii", "replace").decode()
    if found.lower() in (name.lower(), plain.lower()):
        return True
    is_long = len(name.encode()) >= tarfile.LENGTH_NAME
    return is_long and found != "" and plain.lower().startswith(found.lower())


def _between_members(path: Path, file: BinaryIO, places: list[_Place], size: int) -> Problem:
    """The shard's checksum is wrong though all payloads are right: finds the byte in a header, padding or the end."""
    for place in places:
        expected = member_header(f"{place.key}.{place.field}", place.size)
        found = _read(file, place.header, BLOCK)
        if found != expected:
            first = next(i for i in range(BLOCK) if found[i] != expected[i])
            return Problem(str(path), place.key, place.field, place.header + first, "a byte of the tar header changed")
        padding_start = place.offset + place.size
        padding = _read(file, padding_start, place.stop - padding_start)
        if padding.strip(b"\0"):
            first = padding_start + len(padding) - len(padding.lstrip(b"\0"))
            return Problem(str(path), place.key, place.field, first, "a byte of the tar padding changed")
    last = places[-1]
    tail = _read(file, last.stop, size - last.stop)
    if tail.strip(b"\0"):
        first = last.stop + len(tail) - len(tail.lstrip(b"\0"))
        return Problem(str(path), last.key, "", first, "a byte of the end of the tar, after this last sample, changed")
    return Problem(str(path), "", "", -1, "the SHA-256 in the index does not match though every sample is right")


def _verify_decodes(path: Path, key: str, fields: dict[str, bytes]) -> list[Problem]:
    try:
        decode_sample(key, fields)
    except ValueError as error:
        return [Problem(str(path), key, "", -1, f"does not decode: {error}")]
    return []


def _strangers(storage: Storage, shards: tuple[ShardEntry, ...]) -> list[Problem]:
    """Tars that readers which glob the folder would take for data."""
    known = {shard.file for shard in shards}
    strangers = [file for file in storage.files() if file.endswith(".tar") and file not in known]
    return [
        Problem(str(join(storage.folder, file)), "", "", -1, "this file is not in the index: remove it")
        for file in strangers
    ]


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(max(0, offset))
    return file.read(size)
