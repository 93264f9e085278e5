"""The store of memories over LanceDB: `pip install 'unimodel[lance]'`.

The same interface and the same records, for worlds that outgrow an exact search: `build_index` makes searches
approximate. LanceDB commits each change as a version of its table; the settings of the store are in the table's schema,
so that they change together with the keys. It rounds queries to the fp16 of the keys, and does not say what a power cut
leaves.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import lancedb
import numpy as np
import pyarrow as pa

from data_pipelines.shards.atomic import PARTIAL_SUFFIX
from unimodel.memory.forgetting import count_to_forget, least_worth_first, require_room_for_one
from unimodel.memory.index import as_queries
from unimodel.memory.record import (
    ANYWHERE,
    ROW,
    UNSTORED,
    EncodeKeys,
    ForgetPolicy,
    Hits,
    Record,
    StoreSettings,
    Where,
    decode,
    encode,
    encode_keys,
    is_key_intact,
    is_row_intact,
    record_bytes,
    require_model,
    row_checksum,
)
from unimodel.memory.writer_lock import WriterLock

LOCK, TABLE = "lock", "records"
_SETTINGS = b"unimodel"
_HELD = "NOT is_forgotten"
"""Forgotten records stay in the table until `compact`, so that no id is given twice."""


class LanceStore:
    """Methods do and raise what those of `MemoryStore` do."""

    def __init__(self, path: Path, model_hash: str, *, read_only: bool = False) -> None:
        """Raises FileNotFoundError when there is no store in `path`, ValueError when another model has written it,
        RunError naming the process that has it open for writing."""
        if not (path / f"{TABLE}.lance").exists():
            raise FileNotFoundError(f"{path} holds no store: make one with LanceStore.create(path, settings)")
        self.path, self._lock = path, None if read_only else WriterLock(path / LOCK)
        try:
            self._database = lancedb.connect(path)
            self._open()
            require_model(path, self.settings, model_hash)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, settings: StoreSettings) -> Self:
        if (path / f"{TABLE}.lance").exists():
            raise FileExistsError(f"{path} holds a store already: open it, or choose another folder")
        lancedb.connect(path).create_table(TABLE, schema=_schema(settings))
        return cls(path, settings.model_hash)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def settings(self) -> StoreSettings:
        return self._settings

    @property
    def next_id(self) -> int:
        return self._next_id

    @property
    def nbytes(self) -> int:
        return int(record_bytes(self._rows(), self.settings).sum())

    def __len__(self) -> int:
        return self._table.count_rows(_HELD)

    def append(self, records: Sequence[Record]) -> np.ndarray:
        self._require_writable()
        if not records:
            return np.empty(0, np.int64)
        encoded = encode(records, self.settings, self._next_id)
        rows, ends = encoded.rows, [*encoded.rows["offset"].tolist(), len(encoded.payload)]
        rows["offset"] = 0
        rows["crc32"] = [row_checksum(row) for row in rows]
        payloads = [encoded.payload[start:end] for start, end in zip(ends[:-1], ends[1:], strict=True)]
        self._table.add(_columns(rows, encoded.keys, payloads, [None] * len(rows), self.settings))
        self._next_id += len(records)
        return rows["id"].astype(np.int64)

    def search(self, query: np.ndarray, k: int, where: Where = ANYWHERE) -> Hits:
        found = self._nearest("key", as_queries(query, self.settings.dim, np.float32), k, where)
        return Hits(found.ids, 1 - found.scores)  # LanceDB's distance is 1 - the product

    def search_pose(self, pose: np.ndarray, k: int, where: Where = ANYWHERE) -> Hits:
        if not self.settings.pose_dims:
            raise ValueError(f"records of {self.path} have no pose: its pose_dims are 0")
        found = self._nearest("pose", as_queries(pose, self.settings.pose_dims, np.float32), k, where)
        return Hits(found.ids, 0 - np.sqrt(found.scores))

    def read(self, ids: Sequence[int] | np.ndarray) -> list[Record]:
        wanted = [int(id_) for id_ in ids]
        table = self._select(f"{_HELD} AND {_in(wanted)}") if wanted else self._schema.empty_table()
        records = {record.id: record for record in _records(table, self.settings, self.path)}
        for id_ in wanted:
            if id_ not in records:
                raise LookupError(f"there is no record {id_}: it was forgotten, rewound or never written")
        return [records[id_] for id_ in wanted]

    def mark_used(self, ids: Sequence[int] | np.ndarray, step: int) -> None:
        self._require_writable()
        if len(self.read(ids)):
            self._table.update(where=_in(ids), values={"last_used": step})

    def remove(self, ids: Sequence[int] | np.ndarray) -> None:
        self._require_writable()
        if len(self.read(ids)):
            self._table.update(where=_in(ids), values={"is_forgotten": True})

    def forget(self, budget_bytes: int, policy: ForgetPolicy) -> np.ndarray:
        self._require_writable()
        require_room_for_one(budget_bytes, self.settings)
        rows = self._rows()
        used = self._table.search().where(f"{_HELD} AND last_used IS NOT NULL").select(["id", "last_used"])
        marks = used.limit(len(rows) + 1).to_arrow().sort_by("id")
        order = least_worth_first(rows, ForgetPolicy(policy), marks["id"].to_numpy(), marks["last_used"].to_numpy())
        gone = rows["id"][order[: count_to_forget(record_bytes(rows, self.settings)[order], budget_bytes)]]
        if len(gone):
            self._table.update(where=_in(gone), values={"is_forgotten": True})
        return np.sort(gone).astype(np.int64)

    def rewind(self, *, last_id: int | None = None, last_step: int | None = None) -> int:
        self._require_writable()
        if (last_id is None) == (last_step is None):
            raise ValueError("rewind goes to a last_id or to a last_step: give one of them")
        before, rows = len(self), self._rows()
        later = f"step > {last_step}"
        if last_id is None:
            last_id = int(rows["id"][rows["step"] <= last_step].max(initial=UNSTORED))
        else:
            later = f"id > {last_id}"
        self._table.delete(f"{later} OR id > {last_id}")
        if last_step is not None:
            self._table.update(where=f"last_used > {last_step}", values={"last_used": last_step})
        self._next_id = min(max(last_id, UNSTORED) + 1, self._next_id)
        return before - len(self)

    def reencode(self, encode: EncodeKeys, model_hash: str, key_version: int) -> None:
        """The whole table passes through memory."""
        self._require_writable()
        if key_version <= self.settings.key_version:
            raise ValueError(f"key_version must grow: {key_version} does not follow {self.settings.key_version}")
        settings = replace(self.settings, model_hash=model_hash, key_version=key_version)
        table = self._select(_HELD)
        records = list(_records(table, self.settings, self.path))
        keys = encode_keys(np.asarray(encode(records)), settings) if records else np.zeros(0, settings.key_row)
        rows = np.frombuffer(b"".join(table["row"].to_pylist()), ROW)
        last_used = [record.last_used for record in records]
        fresh = _columns(rows, keys, table["payload"].to_pylist(), last_used, settings)
        self._database.create_table(TABLE, data=fresh, mode="overwrite")
        next_id = self._next_id
        self._open()
        self._next_id = next_id

    def compact(self) -> None:
        """The room of versions of the last minute, which a reader may hold, is given back by a later call."""
        self._require_writable()
        self._table.delete(f"is_forgotten AND id < {self._next_id - 1}")
        self._table.optimize(cleanup_older_than=timedelta(minutes=1))

    def branch(self, path: Path) -> None:
        """A copy of all files."""
        self._require_writable()
        if path.exists():
            raise FileExistsError(f"{path} is there already: choose another folder for the branch")
        partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(self.path, partial)
        partial.rename(path)

    def build_index(self) -> None:
        """Makes searches by key approximate and fast: how much they still find is in benchmarks/memory_store.py."""
        self._require_writable()
        self._table.create_index(metric="dot", vector_column_name="key", index_type="IVF_HNSW_SQ")

    def _open(self) -> None:
        self._table = self._database.open_table(TABLE)
        self._schema = self._table.schema
        self._settings = StoreSettings(**json.loads(self._schema.metadata[_SETTINGS]))
        ids = self._table.search().select(["id"]).limit(self._table.count_rows() + 1).to_arrow()["id"].to_numpy()
        self._next_id = int(ids.max(initial=UNSTORED)) + 1

    def _require_writable(self) -> None:
        if self._lock is None:
            raise io.UnsupportedOperation(
                f"{self.path} is open read-only (or closed): open it for writing to change it"
            )
        self._lock.require()

    def _select(self, where: str) -> pa.Table:
        """Ordered by id."""
        return self._table.search().where(where).limit(self._table.count_rows() + 1).to_arrow().sort_by("id")

    def _rows(self) -> np.ndarray:
        """Of what is not forgotten."""
        found = self._table.search().where(_HELD).select(["row"]).limit(self._table.count_rows() + 1).to_arrow()
        rows = np.frombuffer(b"".join(found["row"].to_pylist()), ROW)
        return rows[np.argsort(rows["id"])]

    def _nearest(self, column: str, queries: np.ndarray, k: int, where: Where) -> Hits:
        """With LanceDB's distances for scores."""
        if k < 1:
            raise ValueError(f"a search for the best {k} finds nothing: k must be at least 1")
        terms = {
            "agent =": where.agent,
            "episode =": where.episode,
            "step >=": where.first_step,
            "step <=": where.last_step,
        }
        allowed = " AND ".join([_HELD, *(f"{term} {value}" for term, value in terms.items() if value is not None)])
        ids, distances = np.full((len(queries), k), UNSTORED), np.full((len(queries), k), np.inf, np.float32)
        for number, query in enumerate(queries):
            search: Any = self._table.search(query, vector_column_name=column)  # its stubs know no vectors
            search = search.distance_type("dot" if column == "key" else "l2").where(allowed, prefilter=True)
            found = search.select(["id", "_distance"]).limit(k).to_arrow()
            order = np.lexsort((found["id"].to_numpy(), found["_distance"].to_numpy()))
            ids[number, : len(order)] = found["id"].to_numpy()[order]
            distances[number, : len(order)] = found["_distance"].to_numpy()[order]
        return Hits(ids, distances)


def _schema(settings: StoreSettings) -> pa.Schema:
    fields = [
        pa.field("id", pa.int64()),
        pa.field("step", pa.int64()),
        pa.field("agent", pa.int32()),
        pa.field("episode", pa.int32()),
        pa.field("key", pa.list_(pa.float16(), settings.dim)),
        pa.field("key_crc32", pa.uint32()),
        pa.field("row", pa.binary()),
        pa.field("payload", pa.binary()),
        pa.field("last_used", pa.int64()),
        pa.field("is_forgotten", pa.bool_()),
    ]
    if settings.pose_dims:
        fields.append(pa.field("pose", pa.list_(pa.float32(), settings.pose_dims)))
    return pa.schema(fields, metadata={_SETTINGS: json.dumps(asdict(settings)).encode()})


def _columns(
    rows: np.ndarray, keys: np.ndarray, payloads: list[bytes], last_used: list[int | None], settings: StoreSettings
) -> pa.Table:
    columns = {
        "id": rows["id"],
        "step": rows["step"],
        "agent": rows["agent"],
        "episode": rows["episode"],
        "key": pa.FixedSizeListArray.from_arrays(pa.array(keys["key"].ravel()), settings.dim),
        "key_crc32": keys["crc32"],
        "row": pa.array([row.tobytes() for row in rows], pa.binary()),
        "payload": pa.array(payloads, pa.binary()),
        "last_used": pa.array(last_used, pa.int64()),
        "is_forgotten": np.zeros(len(rows), bool),
    }
    if settings.pose_dims:
        poses = [None if np.isnan(pose[0]) else pose[: settings.pose_dims].tolist() for pose in rows["pose"]]
        columns["pose"] = pa.array(poses, pa.list_(pa.float32(), settings.pose_dims))
    return pa.table(columns, schema=_schema(settings))


def _records(table: pa.Table, settings: StoreSettings, path: Path) -> list[Record]:
    """Raises ValueError for a damaged one."""
    rows = np.frombuffer(b"".join(table["row"].to_pylist()), ROW)
    keys = np.zeros(len(rows), settings.key_row)
    if len(rows):
        keys["key"] = table["key"].combine_chunks().flatten().to_numpy().reshape(len(rows), settings.dim)
    keys["crc32"] = table["key_crc32"].to_numpy()
    records = []
    for parts in zip(rows, keys, table["payload"].to_pylist(), table["last_used"].to_pylist(), strict=True):
        row, key, payload, last_used = parts
        if not (is_row_intact(row) and is_key_intact(key) and zlib.crc32(payload) == row["payload_crc32"]):
            raise ValueError(f"{path}: record {row['id']} is damaged (its checksum differs): give it up with forget")
        records.append(decode(row, key, payload, settings, last_used))
    return records


def _in(ids: Sequence[int] | np.ndarray) -> str:
    return f"id IN ({', '.join(str(int(id_)) for id_ in ids)})"
