"""The store of memories beside LanceDB and beside plain arrays in memory: adding, searching, bytes.

Keys of 256 numbers, 64 tokens a record, batches of 64 synced to the disk one by one. Searches ask for the 32 best of
one query. Recall is against all dot products in fp64. Peers do the same work in the same run, turn by turn. Beside the
time stands the processor time of all threads, which a busy machine disturbs less.

Run: python benchmarks/memory_store.py [RECORDS ...]    (default 10000 100000; 1000000 takes 1 GB and some minutes)
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from unimodel.memory.record import Record, StoreSettings
from unimodel.memory.store import MemoryStore

DIM, TOKENS, VOCABULARY = 256, 64, 1024
BATCH, TIMED_BATCHES, BULK = 64, 50, 8192
QUERIES, WARM_UP, K = 40, 2, 32


class Peer(Protocol):
    """One way to keep records."""

    def add(self, keys: np.ndarray, tokens: np.ndarray) -> None: ...
    def search(self, query: np.ndarray) -> np.ndarray: ...
    def size(self) -> int: ...


class Ours:
    def __init__(self, folder: Path) -> None:
        settings = StoreSettings("world", "model", DIM, VOCABULARY)
        self.store = MemoryStore.create(folder / "store", settings)

    def add(self, keys: np.ndarray, tokens: np.ndarray) -> None:
        first = self.store.next_id
        self.store.append([Record(*pair, step=first + n) for n, pair in enumerate(zip(keys, tokens, strict=True))])

    def search(self, query: np.ndarray) -> np.ndarray:
        return self.store.search(query[None], K).ids[0]

    def size(self) -> int:
        return self.store.disk_bytes


class Lance:
    """LanceDB without an index, which is exact too."""

    def __init__(self, folder: Path) -> None:
        import lancedb
        import pyarrow

        self.folder, self.arrow, self.count = folder / "lance", pyarrow, 0
        schema = pyarrow.schema(
            [
                ("id", pyarrow.int64()),
                ("key", pyarrow.list_(pyarrow.float16(), DIM)),
                ("tokens", pyarrow.list_(pyarrow.uint16(), TOKENS)),
            ]
        )
        self.table = lancedb.connect(self.folder).create_table("records", schema=schema)

    def add(self, keys: np.ndarray, tokens: np.ndarray) -> None:
        lists = self.arrow.FixedSizeListArray.from_arrays
        columns = {
            "id": self.arrow.array(np.arange(self.count, self.count + len(keys))),
            "key": lists(self.arrow.array(keys.ravel()), DIM),
            "tokens": lists(self.arrow.array(tokens.astype(np.uint16).ravel()), TOKENS),
        }
        self.table.add(self.arrow.table(columns))
        self.count += len(keys)

    def search(self, query: np.ndarray) -> np.ndarray:
        found = self.table.search(query).distance_type("dot").select(["id", "_distance"]).limit(K).to_arrow()
        return found["id"].to_numpy()

    def size(self) -> int:
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


class Arrays:
    """What is fastest and kept nowhere: fp32 in memory, one product."""

    def __init__(self, folder: Path) -> None:
        self.keys, self.tokens, self.count = np.empty((0, DIM), np.float32), np.empty((0, TOKENS), np.uint16), 0

    def add(self, keys: np.ndarray, tokens: np.ndarray) -> None:
        if self.count + len(keys) > len(self.keys):
            room = max(2 * self.count, len(keys))
            self.keys.resize((room, DIM), refcheck=False)
            self.tokens.resize((room, TOKENS), refcheck=False)
        self.keys[self.count : self.count + len(keys)] = keys
        self.tokens[self.count : self.count + len(keys)] = tokens
        self.count += len(keys)

    def search(self, query: np.ndarray) -> np.ndarray:
        scores = self.keys[: self.count] @ query
        best = np.argpartition(-scores, K)[:K]
        return best[np.argsort(-scores[best])]

    def size(self) -> int:
        return self.count * (DIM * 4 + TOKENS * 2)


def measure(peers: dict[str, Peer], records: int) -> None:
    """Fills all with the same records, then prints a line each."""
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((QUERIES, DIM)).astype(np.float32)
    # What a world gives: clusters of frames that resemble each other, and a query that resembles one of them.
    centres = rng.standard_normal((records // 100, DIM)).astype(np.float32)
    queries = centres[rng.integers(len(centres), size=QUERIES)] + 0.3 * queries
    adding = dict.fromkeys(peers, 0.0)
    scores = []
    done = 0
    while done < records:
        timed = records - done <= BATCH * TIMED_BATCHES
        count = BATCH if timed else min(BULK, records - done - BATCH * TIMED_BATCHES)
        chosen = centres[rng.integers(len(centres), size=count)]
        keys = (chosen + 0.5 * rng.standard_normal((count, DIM))).astype(np.float16)
        tokens = rng.integers(VOCABULARY, size=(count, TOKENS))
        scores.append(queries.astype(np.float64) @ keys.astype(np.float64).T)
        for name, peer in peers.items():
            start = time.perf_counter()
            peer.add(keys, tokens)
            adding[name] += timed * (time.perf_counter() - start)
        done += count
    exact = np.argpartition(-np.concatenate(scores, axis=1), K, axis=1)[:, :K]
    searching: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
    recalled = dict.fromkeys(peers, 0)
    for number, query in enumerate(queries):
        for name, peer in peers.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            found = peer.search(query)
            searching[name].append((1000 * (time.perf_counter() - start), 1000 * (time.process_time() - start_cpu)))
            recalled[name] += len(set(found.tolist()) & set(exact[number].tolist()))
    print(f"{records} records")
    times = {name: np.array(values[WARM_UP:]) for name, values in searching.items()}
    ours = np.median(times["unimodel"], axis=0)
    for name, peer in peers.items():
        (p50, cpu), (p95, _) = np.percentile(times[name], [50, 95], axis=0)
        print(
            f"  {name:12} add {1000 * adding[name] / (BATCH * TIMED_BATCHES):6.3f} ms/record "
            f"({adding['unimodel'] / adding[name]:6.2f})  search p50 {p50:7.2f} ms ({ours[0] / p50:5.2f}) "
            f"p95 {p95:7.2f} ms processor {cpu:7.2f} ms ({ours[1] / cpu:5.2f})  "
            f"recall@{K} {recalled[name] / K / QUERIES:.3f}  {peer.size() / records:5.0f} bytes/record",
            flush=True,
        )


def main() -> None:
    torch.set_num_threads(1)
    kinds: dict[str, Callable[[Path], Peer]] = {"unimodel": Ours}
    if importlib.util.find_spec("lancedb"):
        kinds["LanceDB"] = Lance
    kinds["numpy, RAM"] = Arrays
    print("in brackets: time of unimodel over the time of the peer; below 1 unimodel is faster")
    for records in map(int, sys.argv[1:] or ("10000", "100000")):
        with tempfile.TemporaryDirectory() as folder:
            measure({name: make(Path(folder)) for name, make in kinds.items()}, records)


if __name__ == "__main__":
    main()
