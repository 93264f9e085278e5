"""The samples of one shard: `NAME.tar.idx` beside `NAME.tar`, a safetensors file of flat columns, memory-mapped.

One small file per shard, so that a data set of any size is opened by its manifest alone and a reader holds the tables
of the shards that it reads from just now. Columns of n samples with m members:

    keys [bytes], key_end [n]                           the keys, one after another, and where each ends
    member_end [n]                                      members of sample i: member_end[i - 1] .. member_end[i]
    member_offset, member_size, member_crc32 [m]        payload of a member, bytes of the tar
    member_field [m]                                    number of its field name
    length.NAME [...], length.NAME.end [n]              token counts, frame counts: what a plan must know unread
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save

TABLE_SUFFIX = ".idx"
LENGTH = "length."
HEADER_BYTES = 8
MAX_HEADER_BYTES = 1 << 20

Lengths = Mapping[str, int | Sequence[int]]
"""Small numbers about a sample by name: its token and frame counts."""


class Member(NamedTuple):
    """One field of a sample: its payload is `size` bytes at byte `offset` of the shard, with CRC-32 `crc32`."""

    offset: int
    size: int
    crc32: int


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """A sample: its members by field name, in shard order, and its lengths."""

    key: str
    members: dict[str, Member]
    lengths: dict[str, list[int]] = field(default_factory=dict)


class SampleTable:
    """Read access to the columns of one shard. Sample numbers count from 0 within the shard."""

    def __init__(self, columns: dict[str, np.ndarray], fields: list[str], content: bytes | mmap.mmap) -> None:
        self._fields, self._content = fields, content
        self._keys = columns["keys"].tobytes()
        # A number of a memoryview is a Python int, and costs a third of one of an array.
        self._key_end, self._member_end = columns["key_end"].data, columns["member_end"].data
        self._members = tuple(
            columns[name].data for name in ("member_field", "member_offset", "member_size", "member_crc32")
        )
        self._lengths = {
            name.removeprefix(LENGTH): (columns[name].data, columns[f"{name}.end"].data)
            for name in columns
            if name.startswith(LENGTH) and not name.endswith(".end")
        }

    def __len__(self) -> int:
        return len(self._key_end)

    def let_go(self) -> None:
        """Takes no memory until it is read again: then the pages that are read come back from the page cache."""
        if isinstance(self._content, mmap.mmap):
            self._content.madvise(mmap.MADV_DONTNEED)

    def key(self, number: int) -> str:
        return self._keys[_range(self._key_end, number)].decode()

    def length(self, number: int, name: str) -> list[int]:
        """[k] the lengths called `name` of a sample. Raises KeyError when the table has none of that name."""
        values, ends = self._lengths[name]
        return values[ends[number - 1] if number else 0 : ends[number]].tolist()

    @property
    def length_names(self) -> tuple[str, ...]:
        return tuple(self._lengths)

    def members(self, number: int) -> dict[str, Member]:
        """The members of a sample by field name, in shard order."""
        here = _range(self._member_end, number)
        fields, *places = (column[here].tolist() for column in self._members)
        return dict(zip(map(self._fields.__getitem__, fields), map(Member, *places), strict=True))

    def sample(self, number: int) -> SampleEntry:
        """All that is known of a sample."""
        lengths = {name: self.length(number, name) for name in self._lengths}
        lengths = {name: values for name, values in lengths.items() if values}
        return SampleEntry(self.key(number), self.members(number), lengths)

    def samples(self) -> Iterator[SampleEntry]:
        """Every sample, in shard order."""
        return map(self.sample, range(len(self)))

    def sums(self, name: str) -> np.ndarray:
        """int64 [samples that have any] the lengths called `name`, added up for each sample."""
        if name not in self._lengths:
            return np.zeros(0, dtype=np.int64)
        values, ends = (np.asarray(column, dtype=np.int64) for column in self._lengths[name])
        starts = np.concatenate([[0], ends[:-1]])
        counts = ends - starts
        summed = np.concatenate([[0], np.cumsum(values)])
        return (summed[ends] - summed[starts])[counts > 0]

    def total(self, name: str) -> int:
        """Sum of the lengths called `name` over all samples; 0 when there are none."""
        return sum(self._lengths[name][0]) if name in self._lengths else 0


def table_path(shard: Path) -> Path:
    """Where the table of a shard lies."""
    return shard.with_name(shard.name + TABLE_SUFFIX)


def encode_table(samples: Sequence[SampleEntry]) -> bytes:
    """The file's bytes, a pure function of the samples."""
    fields = sorted({name for sample in samples for name in sample.members})
    names = sorted({name for sample in samples for name in sample.lengths})
    number = {name: i for i, name in enumerate(fields)}
    members = [(number[name], member) for sample in samples for name, member in sample.members.items()]
    keys = [sample.key.encode() for sample in samples]
    columns = {
        "keys": np.frombuffer(b"".join(keys), dtype=np.uint8),
        "key_end": _ends([len(key) for key in keys]),
        "member_end": _ends([len(sample.members) for sample in samples]),
        "member_offset": np.array([member.offset for _, member in members], dtype=np.uint64),
        "member_size": np.array([member.size for _, member in members], dtype=np.uint64),
        "member_crc32": np.array([member.crc32 for _, member in members], dtype=np.uint32),
        "member_field": np.array([field for field, _ in members], dtype=np.uint16),
    }
    for name in names:
        values = [sample.lengths.get(name, []) for sample in samples]
        columns[f"{LENGTH}{name}"] = np.array([v for some in values for v in some], dtype=np.uint32)
        columns[f"{LENGTH}{name}.end"] = _ends([len(some) for some in values])
    return save(columns, metadata={"fields": json.dumps(fields)})


def open_table(path: Path, num_samples: int) -> SampleTable:
    """Maps a table into memory. Raises FileNotFoundError when it is missing and ValueError as `decode_table` does."""
    with path.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # empty
            raise ValueError(f"{path} is not a table ({error}): make its shard again") from None
    return decode_table(content, num_samples, path)


def decode_table(content: bytes | mmap.mmap, num_samples: int, path: Path | str) -> SampleTable:
    """The table in `content`, which it keeps.

    Raises ValueError, naming `path`, when it is not a whole table of `num_samples` samples. Whether every byte is
    right, its SHA-256 in the manifest tells.
    """
    try:
        columns, fields = _decode(content)
        table = SampleTable(columns, fields, content)
        _check(columns, fields, num_samples)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is not a table of {num_samples} samples ({error}): make its shard again") from None
    return table


_DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64}


def _decode(content: bytes | mmap.mmap) -> tuple[dict[str, np.ndarray], list[str]]:
    """Columns as views of the mapped file (safetensors' own reader would copy them)."""
    size = int.from_bytes(content[:HEADER_BYTES], "little")
    if size > min(MAX_HEADER_BYTES, len(content)):
        raise ValueError("its header is damaged")
    header = json.loads(content[HEADER_BYTES : HEADER_BYTES + size])
    fields = json.loads(header.pop("__metadata__")["fields"])
    columns = {}
    for name, about in header.items():
        start, stop = (HEADER_BYTES + size + offset for offset in about["data_offsets"])
        dtype = np.dtype(_DTYPES[about["dtype"]])
        if not HEADER_BYTES + size <= start <= stop <= len(content):
            raise ValueError(f"column {name} lies outside the file")
        columns[name] = np.frombuffer(content, dtype, (stop - start) // dtype.itemsize, start)
    return columns, fields


def _check(columns: dict[str, np.ndarray], fields: list[str], num_samples: int) -> None:
    members = len(columns["member_offset"])
    sizes = {name: members for name in ("member_size", "member_crc32", "member_field")}
    sizes |= {name: num_samples for name in columns if name.endswith("end")}
    for name, size in sizes.items():
        if len(columns[name]) != size:
            raise ValueError(f"column {name} has {len(columns[name])} values, not {size}")
    for name in (name for name in columns if name.endswith("end")):
        target = {"key_end": "keys", "member_end": "member_offset"}.get(name, name.removesuffix(".end"))
        ends = columns[name].astype(np.int64)
        if num_samples and (ends[-1] != len(columns[target]) or (np.diff(ends) < 0).any()):
            raise ValueError(f"column {name} does not divide {target}")
    if members and columns["member_field"].max() >= len(fields):
        raise ValueError("a member has no field name")


def _ends(counts: Sequence[int]) -> np.ndarray:
    return np.cumsum(np.asarray(counts, dtype=np.int64), dtype=np.int64).astype(np.uint32)


def _range(ends: memoryview, number: int) -> slice:
    return slice(ends[number - 1] if number else 0, ends[number])
