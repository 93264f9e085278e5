"""Tars in WebDataset form made elsewhere: what lies where in them, and an index beside them.

Only plain files with names inside the archive count; nothing is ever unpacked.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipelines.shards.atomic import publish, remove_partials
from data_pipelines.shards.index import INDEX_FILE, PLAIN_NAME, ShardEntry, read_manifest
from data_pipelines.shards.table import Member, SampleEntry, encode_table, table_path
from data_pipelines.shards.unfinished import finish_folder, is_complete, known_shards, publish_sidecar
from data_pipelines.shards.writer import file_sha256
from data_pipelines.sources.measure import measure
from data_pipelines.sources.processes import run_tasks

INDEXED = "indexed"
"""`kind` in the manifest of tars that were not made here."""
KEY_AND_FIELD = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")
"""As stock WebDataset splits a name: the field begins at the first dot of the file name."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True, slots=True)
class ForeignMember:
    """A file of a tar; `refused` says why it must not be used. The payload is `size` bytes at byte `offset`."""

    name: str
    key: str
    field: str
    offset: int
    size: int
    refused: str = ""


def scan_tar(path: Path, max_member_bytes: int) -> Iterator[ForeignMember]:
    """The members of a tar that belong to samples, and those that are refused, in order.

    Folders and files without a key and a field (`README`, `._x.jpg`) are passed over, as stock readers do. Raises
    ValueError, naming the byte, when the tar is damaged or cut off.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue] - tarfile would keep every header
                if info.isdir():
                    continue
                reason = _refusal(info, max_member_bytes)
                split = KEY_AND_FIELD.fullmatch(info.name)
                if reason or split:
                    key, field = split.groups() if split else (info.name, "")
                    yield ForeignMember(info.name, key, field.lower(), info.offset_data, info.size, reason)
            _check_end(path, tar.offset)
    except (tarfile.TarError, EOFError, OverflowError) as error:
        raise ValueError(f"{path} is not a whole, uncompressed tar ({error})") from None


def scan_samples(path: Path, max_member_bytes: int) -> Iterator[tuple[str, list[ForeignMember]]]:
    """Keys and their members: neighbours of one key are one sample."""
    for key, members in groupby(scan_tar(path, max_member_bytes), key=lambda member: member.key):
        yield key, list(members)


def foreign_folders(folder: Path) -> list[Path]:
    """`folder` when it holds tars, else its subfolders that do. Raises FileNotFoundError when there is none and
    ValueError for compressed tars."""
    places = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())] if folder.is_dir() else []
    for place in places:
        if packed := sorted(path.name for path in place.iterdir() if path.name.lower().endswith(COMPRESSED)):
            raise ValueError(f"{place / packed[0]} is compressed: unpack it to a plain .tar first (gunzip, unzstd ...)")
    found = [place for place in places if next(place.glob("*.tar"), None)]
    if not found:
        raise FileNotFoundError(f"{folder} {'holds no .tar file' if folder.is_dir() else 'does not exist'}")
    return found[:1] if found[0] == folder else found


def is_indexed(folder: Path) -> bool:
    """Every tar is in the index and stands as it was indexed. Raises ValueError for data made here that is damaged."""
    if not (folder / INDEX_FILE).exists():
        return False
    if read_manifest(folder).metadata.get("kind") != INDEXED:
        if is_complete(folder):
            return True
        raise ValueError(f"{folder} was not made elsewhere: shards are missing, run the command that made it again")
    tars = _tars(folder)
    return {path.name for path in tars} == {s.file for s in read_manifest(folder).shards} and not _changed(folder, tars)


def index_folder(folder: Path, report: Callable[[int], None], processes: int, max_member_bytes: int) -> None:
    """Writes the tables and the manifest of a folder of tars; the tars stay as they are.

    Raises ValueError, naming tar and member, for what must not be read: links, devices, names that lead out of the
    folder, members of more than `max_member_bytes`, a key in two places, a damaged tar. Tars done stay done.
    """
    tars = _tars(folder)
    for path in tars:
        if not PLAIN_NAME.fullmatch(path.name):
            raise ValueError(f"{path}: the name may only have letters, digits, _, - and dots: rename it")
    changed = _changed(folder, tars)
    report(len(tars) - len(changed))
    try:
        run_tasks(_index_task, [(path, max_member_bytes) for path in changed], processes, report)
    finally:
        remove_partials(folder)
    finish_folder(folder, tars, {"kind": INDEXED})


def index_tar(path: Path, max_member_bytes: int) -> ShardEntry:
    """Writes the table of one tar. Raises ValueError as `index_folder` does."""
    samples: dict[str, SampleEntry] = {}
    with path.open("rb") as file:
        for key, members in scan_samples(path, max_member_bytes):
            fields: dict[str, bytes] = {}
            for member in members:
                if member.refused:
                    raise ValueError(f"{path}, member {member.name!r}: {member.refused}; the tar is not used")
                if member.field in fields:
                    raise ValueError(f"{path}, member {member.name!r}: the sample has this field twice")
                file.seek(member.offset)
                fields[member.field] = file.read(member.size)
            if key in samples:
                raise ValueError(f"{path}, sample {key!r}: its files do not lie side by side, or two have one key")
            places = {m.field: Member(m.offset, m.size, zlib.crc32(fields[m.field])) for m in members}
            lengths = {n: [v] if isinstance(v, int) else list(v) for n, v in measure(fields).items()}
            samples[key] = SampleEntry(key, places, lengths)
    if not samples:
        raise ValueError(f"{path} holds no samples: files named KEY.FIELD")
    table = encode_table(list(samples.values()))
    publish(table_path(path), table)
    return ShardEntry(path.name, len(samples), path.stat().st_size, file_sha256(path), file_sha256(table_path(path)))


def _index_task(task: tuple[Path, int]) -> int:
    path, max_member_bytes = task
    publish_sidecar(path, {"shard": asdict(index_tar(path, max_member_bytes))})
    return 1


def _tars(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar"))


def _changed(folder: Path, tars: list[Path]) -> list[Path]:
    """Tars without an entry, of another size, or written after their table."""
    known = known_shards(folder)

    def stands(path: Path) -> bool:
        entry, table = known.get(path.name), table_path(path)
        if entry is None or not table.exists():
            return False
        return path.stat().st_size == entry.size_bytes and path.stat().st_mtime_ns <= table.stat().st_mtime_ns

    return [path for path in tars if not stands(path)]


def _refusal(info: tarfile.TarInfo, max_member_bytes: int) -> str:
    """Why a member must not be read; empty when it may."""
    name = PurePosixPath(info.name)
    if info.issym() or info.islnk():
        return f"it is a link to {info.linkname!r}"
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.issparse():
        return "it is not a plain file"
    if name.is_absolute() or ".." in name.parts or "\\" in info.name:
        return "its name leads out of the archive"
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in info.name):
        return "its name is not readable text"
    if info.size > max_member_bytes:
        return f"its {info.size} bytes are more than the {max_member_bytes} allowed"
    return ""


def _check_end(path: Path, offset: Any) -> None:
    """tarfile takes a damaged header for the end: what follows must be empty."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        raise ValueError(f"{path}: damaged at byte {offset}, where the header of a member is expected")
