"""The store over LanceDB does what the embedded one does, on the same sequence of changes.

Run: pytest tests/memory/test_lance_store.py
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from store_writer import SETTINGS, content, moment

from unimodel.errors import RunError
from unimodel.memory.record import ForgetPolicy, Record, RecordStore, Where
from unimodel.memory.store import MemoryStore

pytest.importorskip("lancedb", reason="pip install 'unimodel[lance]'")

from unimodel.memory.lance_store import LanceStore


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


def other_model(records: list[Record]) -> np.ndarray:
    return np.stack([np.resize(record.tokens % 7, SETTINGS.dim) for record in records]).astype(np.float32)


def require_equal(ours: RecordStore, theirs: RecordStore) -> None:
    assert len(ours) == len(theirs) and ours.nbytes == theirs.nbytes and ours.settings == theirs.settings
    # LanceDB rounds queries to the fp16 of the keys.
    query = np.random.default_rng(len(ours)).standard_normal((3, SETTINGS.dim)).astype(np.float16)
    for where in (Where(), Where(agent=1, last_step=20), Where(episode=1, first_step=25)):
        for expected, found in (
            (ours.search(query, 9, where), theirs.search(query, 9, where)),
            (ours.search_pose(query[:, :3], 9, where), theirs.search_pose(query[:, :3], 9, where)),
        ):
            np.testing.assert_array_equal(found.ids, expected.ids)
            # LanceDB sums in fp32 and subtracts from 1.
            np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)
    ids = [int(id_) for id_ in np.unique(ours.search(query, len(ours)).ids)]
    for expected, found in zip(ours.read(ids), theirs.read(ids), strict=True):
        assert content(found) == content(expected) and found.last_used == expected.last_used
        assert (found.model_hash, found.key_version) == (expected.model_hash, expected.key_version)


def test_it_is_equal_to_the_embedded_store(path: Path) -> None:
    stores: tuple[MemoryStore, LanceStore] = (
        MemoryStore.create(path / "ours", SETTINGS),
        LanceStore.create(path / "lance", SETTINGS),
    )
    for change in (
        lambda store: store.append([moment(id_) for id_ in range(60)]),
        lambda store: store.mark_used([3, 7, 50], 90),
        lambda store: store.remove([0, 8, 59]),
        lambda store: store.forget(int(store.nbytes * 0.7), ForgetPolicy.USE),
        lambda store: store.append([moment(id_) for id_ in range(60, 70)]),
        lambda store: store.compact(),
        lambda store: store.rewind(last_id=65),
        lambda store: store.forget(int(store.nbytes * 0.8), ForgetPolicy.SURPRISE),
        lambda store: store.rewind(last_step=31),
        lambda store: store.append([moment(id_) for id_ in range(80, 90)]),
        lambda store: store.reencode(other_model, "model-b", 2),
        lambda store: store.branch(store.path.with_name(f"{store.path.name}-branch")),
    ):
        expected, found = (change(store) for store in stores)
        np.testing.assert_array_equal(found, expected)
        require_equal(*stores)
    for store in stores:
        store.close()
    with (
        MemoryStore(path / "ours-branch", "model-b") as ours,
        LanceStore(path / "lance-branch", "model-b") as theirs,
    ):
        require_equal(ours, theirs)
        assert ours.append([moment(0)]).tolist() == theirs.append([moment(0)]).tolist()


def test_it_refuses_what_the_embedded_store_refuses(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no store"):
        LanceStore(path / "lance", "model-a")
    with LanceStore.create(path / "lance", SETTINGS) as store:
        store.append([moment(0), moment(1)])
        with pytest.raises(FileExistsError, match="holds a store already"):
            LanceStore.create(path / "lance", SETTINGS)
        with pytest.raises(RunError, match="in this process already"):
            LanceStore(path / "lance", "model-a")
        with pytest.raises(LookupError, match="no record 2"):
            store.read([0, 2])
        with pytest.raises(ValueError, match="holds no record"):
            store.forget(10, ForgetPolicy.AGE)
    with pytest.raises(ValueError, match="holds keys of the model model-a"):
        LanceStore(path / "lance", "model-b")
    with LanceStore(path / "lance", "model-a", read_only=True) as reader:
        assert len(reader.read([1])) == 1
        with pytest.raises(io.UnsupportedOperation, match="read-only"):
            reader.remove([1])
