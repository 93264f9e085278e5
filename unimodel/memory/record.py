"""What a store keeps of one moment, and the interface that every store has."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np

MAX_POSE_DIMS = 4
UNSTORED = -1
"""The id of a record that no store has taken yet, and of a hit that is none."""

ROW = np.dtype(
    [
        ("id", "<i8"),
        ("step", "<i8"),
        ("agent", "<i4"),
        ("episode", "<i4"),
        ("pose", "<f4", (MAX_POSE_DIMS,)),
        ("reward", "<f4"),
        ("surprise", "<f4"),
        ("num_tokens", "<u4"),
        ("num_action", "<u4"),
        ("num_text", "<u4"),
        ("offset", "<u8"),
        ("payload_crc32", "<u4"),
        ("crc32", "<u4"),
    ]
)
"""A record in a `.rows` file: all of it but its key and its ids. An absent pose is NaN; `offset` counts bytes in the
`.tokens` file, where its tokens, its action and its text follow each other; the last checksum is of the row."""
_CHECKSUM_BYTES = 4


def key_row(dim: int) -> np.dtype:
    """A record in a `.keys` file. The key has a checksum of its own because it is rewritten on its own."""
    return np.dtype([("key", "<f2", (dim,)), ("crc32", "<u4")])


def _no_ids() -> np.ndarray:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One moment of a world.

    `key` [dim] is what it is found by, kept in fp16; `tokens` [n] are its frame, `action` [a] what led to it and `text`
    [m] what was said, all as ids of the one vocabulary; `pose` has as many numbers as the store's `pose_dims`. `step`
    counts from the birth of the world and never restarts. The world is the store's own.

    The last five are set by the store and ignored when a record is written: `last_used` is the step of the last
    `mark_used`, None before it.
    """

    key: np.ndarray
    tokens: np.ndarray
    step: int
    agent: int = 0
    episode: int = 0
    pose: tuple[float, ...] | None = None
    action: np.ndarray = field(default_factory=_no_ids)
    reward: float = 0.0
    text: np.ndarray = field(default_factory=_no_ids)
    surprise: float = 0.0
    id: int = UNSTORED
    last_used: int | None = None
    model_hash: str = ""
    key_version: int = 0
    crc32: int = 0


@dataclass(frozen=True)
class StoreSettings:
    """What a store is made for. `model_hash` names the model whose keys it holds; `key_version` grows when they are
    rewritten. Raises ValueError for sizes that cannot be."""

    world: str
    model_hash: str
    dim: int
    vocabulary_size: int
    pose_dims: int = 0
    key_version: int = 1
    segment_rows: int = 65_536

    def __post_init__(self) -> None:
        if self.dim < 1 or self.segment_rows < 1 or not 1 <= self.vocabulary_size <= 2**32:
            raise ValueError(
                f"dim ({self.dim}), segment_rows ({self.segment_rows}) and vocabulary_size ({self.vocabulary_size}) "
                "of a store must be positive, and ids fit 32 bits"
            )
        if not 0 <= self.pose_dims <= MAX_POSE_DIMS:
            raise ValueError(f"a pose has 0 to {MAX_POSE_DIMS} numbers, not pose_dims={self.pose_dims}")
        if not self.model_hash:
            raise ValueError("a store needs the model_hash of the model that makes its keys")

    @cached_property
    def id_dtype(self) -> np.dtype:
        """Two bytes an id where the vocabulary allows it."""
        return np.dtype("<u2" if self.vocabulary_size <= 2**16 else "<u4")

    @cached_property
    def key_row(self) -> np.dtype:
        return key_row(self.dim)


@dataclass(frozen=True, slots=True)
class Where:
    """Which records a search may find; None means any, both ends of the steps count."""

    agent: int | None = None
    episode: int | None = None
    first_step: int | None = None
    last_step: int | None = None

    def mask(self, rows: np.ndarray) -> np.ndarray | None:
        """[n] which of `rows` it allows; None for all of them."""
        terms = []
        if self.agent is not None:
            terms.append(rows["agent"] == self.agent)
        if self.episode is not None:
            terms.append(rows["episode"] == self.episode)
        if self.first_step is not None:
            terms.append(rows["step"] >= self.first_step)
        if self.last_step is not None:
            terms.append(rows["step"] <= self.last_step)
        return np.logical_and.reduce(terms) if terms else None


ANYWHERE = Where()


class Hits(NamedTuple):
    """`ids` int64 [queries, k], best first, equal scores by id; `scores` fp32 [queries, k]: the dot product, or minus
    the distance of poses. Where fewer than k records were allowed, the rest is UNSTORED and minus infinity."""

    ids: np.ndarray
    scores: np.ndarray


class ForgetPolicy(StrEnum):
    """Who is forgotten first: the oldest step, the least surprising, or the least recently used (a record that was
    never used counts from its own step)."""

    AGE = "age"
    SURPRISE = "surprise"
    USE = "use"


EncodeKeys = Callable[[list[Record]], np.ndarray]
"""Records to keys [n, dim], by the model that a store is to belong to from now on."""


class RecordStore(Protocol):
    """What the embedded store and the one over LanceDB have in common; `store.py` says what each does."""

    @property
    def settings(self) -> StoreSettings: ...
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def append(self, records: Sequence[Record]) -> np.ndarray: ...
    def search(self, query: np.ndarray, k: int, where: Where = ANYWHERE) -> Hits: ...
    def search_pose(self, pose: np.ndarray, k: int, where: Where = ANYWHERE) -> Hits: ...
    def read(self, ids: Sequence[int] | np.ndarray) -> list[Record]: ...
    def mark_used(self, ids: Sequence[int] | np.ndarray, step: int) -> None: ...
    def remove(self, ids: Sequence[int] | np.ndarray) -> None: ...
    def forget(self, budget_bytes: int, policy: ForgetPolicy) -> np.ndarray: ...
    def rewind(self, *, last_id: int | None = None, last_step: int | None = None) -> int: ...
    def reencode(self, encode: EncodeKeys, model_hash: str, key_version: int) -> None: ...
    def compact(self) -> None: ...
    def branch(self, path: Path) -> None: ...
    def close(self) -> None: ...


def require_model(path: Path, settings: StoreSettings, model_hash: str) -> None:
    """Raises ValueError unless `model_hash` has made the keys of the store in `path`."""
    if settings.model_hash != model_hash:
        raise ValueError(
            f"{path} holds keys of the model {settings.model_hash} (key version {settings.key_version}), which mean "
            f"nothing to {model_hash}. Open it with model_hash={settings.model_hash!r} and rewrite them with "
            "reencode(encode, model_hash, key_version), in a branch if the old model goes on"
        )


class Encoded(NamedTuple):
    """Records as they lie in files: `keys` [n] and `rows` [n] of their dtypes, `payload` the bytes of all tokens,
    actions and texts. Offsets in `rows` count from the first of them; the rows have no checksum of their own yet."""

    keys: np.ndarray
    rows: np.ndarray
    payload: bytes

    def part(self, start: int, end: int) -> Encoded:
        """Some of the records, with the same offsets."""
        offsets = [*self.rows["offset"].tolist(), len(self.payload)]
        end = min(end, len(self.rows))
        return Encoded(self.keys[start:end], self.rows[start:end], self.payload[offsets[start] : offsets[end]])


def encode(records: Sequence[Record], settings: StoreSettings, first_id: int) -> Encoded:
    """Raises ValueError naming the record that does not fit the store."""
    rows = np.zeros(len(records), ROW)
    rows["id"] = np.arange(first_id, first_id + len(records))
    for name in ("step", "agent", "episode", "reward", "surprise"):
        values = np.array([getattr(record, name) for record in records])
        rows[name] = values
        if not (np.isfinite(values).all() and np.isclose(rows[name], values, rtol=1e-6, atol=1e-30).all()):
            raise ValueError(f"a record's {name} is not finite or too large for the store's {ROW[name]}: {values}")
    rows["pose"] = [_pose(number, record, settings) for number, record in enumerate(records)]
    parts = [ids for record in records for ids in (record.tokens, record.action, record.text)]
    lengths = np.array([len(part) for part in parts], np.int64).reshape(-1, 3)
    rows["num_tokens"], rows["num_action"], rows["num_text"] = lengths.T
    ids = _ids(parts, lengths, settings)
    ends = np.cumsum(lengths.sum(axis=1)) * settings.id_dtype.itemsize
    rows["offset"] = np.concatenate([[0], ends[:-1]])
    payload = ids.tobytes()
    starts = rows["offset"].tolist()
    rows["payload_crc32"] = [zlib.crc32(payload[start:end]) for start, end in zip(starts, ends.tolist(), strict=True)]
    keys = np.stack([_key(number, record, settings) for number, record in enumerate(records)])
    return Encoded(encode_keys(keys, settings), rows, payload)


def encode_keys(keys: np.ndarray, settings: StoreSettings) -> np.ndarray:
    """Keys [n, dim] with their checksums. Raises ValueError for another shape or a value that fp16 cannot hold."""
    if keys.ndim != 2 or keys.shape[1] != settings.dim:
        raise ValueError(f"keys of this store are [n, {settings.dim}], not {list(keys.shape)}")
    encoded = np.zeros(len(keys), settings.key_row)
    with np.errstate(over="ignore"):
        encoded["key"] = keys
    finite = np.isfinite(encoded["key"]).all(axis=1)
    if not finite.all():
        raise ValueError(f"key {int(np.argmin(finite))} of {len(keys)} has a value that is not finite in fp16")
    encoded["crc32"] = [zlib.crc32(key.tobytes()) for key in encoded["key"]]
    return encoded


def largest_norm(keys: np.ndarray) -> float:
    """Of encoded keys, 0 for none: it bounds the rounding of a search."""
    return float(np.linalg.norm(keys["key"].astype(np.float32), axis=1).max(initial=0.0))


def is_key_intact(encoded: np.void) -> bool:
    return zlib.crc32(encoded["key"].tobytes()) == encoded["crc32"]


def row_checksum(row: np.void) -> int:
    return zlib.crc32(row.tobytes()[:-_CHECKSUM_BYTES])


def is_row_intact(row: np.void) -> bool:
    return row_checksum(row) == row["crc32"]


def payload_bytes(rows: np.ndarray, settings: StoreSettings) -> np.ndarray:
    """[n] bytes in the `.tokens` file."""
    lengths = rows["num_tokens"].astype(np.int64) + rows["num_action"] + rows["num_text"]
    return lengths * settings.id_dtype.itemsize


def record_bytes(rows: np.ndarray, settings: StoreSettings) -> np.ndarray:
    """[n] bytes in all files together."""
    return payload_bytes(rows, settings) + ROW.itemsize + settings.key_row.itemsize


def decode(row: np.void, key: np.void, payload: bytes, settings: StoreSettings, last_used: int | None) -> Record:
    """The record of its parts; the caller has checked them."""
    ids = np.frombuffer(payload, settings.id_dtype).astype(np.int64)
    tokens, action, text = np.split(ids, np.cumsum([row["num_tokens"], row["num_action"]]))
    pose = tuple(row["pose"][: settings.pose_dims].tolist())
    return Record(
        key=key["key"].copy(),
        tokens=tokens,
        step=int(row["step"]),
        agent=int(row["agent"]),
        episode=int(row["episode"]),
        pose=None if not pose or np.isnan(pose[0]) else pose,
        action=action,
        reward=float(row["reward"]),
        text=text,
        surprise=float(row["surprise"]),
        id=int(row["id"]),
        last_used=last_used,
        model_hash=settings.model_hash,
        key_version=settings.key_version,
        crc32=int(row["crc32"]),
    )


def _key(number: int, record: Record, settings: StoreSettings) -> np.ndarray:
    key = np.asarray(record.key)
    if key.shape != (settings.dim,):
        raise ValueError(f"record {number}: its key is {list(key.shape)}, those of this store are [{settings.dim}]")
    return key


def _pose(number: int, record: Record, settings: StoreSettings) -> list[float]:
    if record.pose is None:
        return [np.nan] * MAX_POSE_DIMS
    if len(record.pose) != settings.pose_dims or not np.isfinite(record.pose).all():
        raise ValueError(f"record {number}: pose {record.pose} is not {settings.pose_dims} finite numbers (pose_dims)")
    return [*record.pose, *[np.nan] * (MAX_POSE_DIMS - len(record.pose))]


def _ids(parts: list[np.ndarray], lengths: np.ndarray, settings: StoreSettings) -> np.ndarray:
    arrays = [np.asarray(part) for part in parts]
    for number, array in enumerate(arrays):
        if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
            raise ValueError(f"record {number // 3}: ids are whole numbers [n], not {array.dtype} {list(array.shape)}")
    ids = np.concatenate([array.astype(np.int64) for array in arrays])
    wrong = (ids < 0) | (ids >= settings.vocabulary_size)
    if wrong.any():
        place = int(np.argmax(wrong))
        number = int(np.searchsorted(np.cumsum(lengths.sum(axis=1)), place, side="right"))
        raise ValueError(f"record {number}: id {ids[place]} is outside the vocabulary of {settings.vocabulary_size}")
    return ids.astype(settings.id_dtype)
