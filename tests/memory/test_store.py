"""The store against a dictionary, against brute force, against other models and other writers.

Run: pytest tests/memory/test_store.py
"""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from store_writer import SETTINGS, content, encoded_otherwise, everything, forked, moment, moments, write_for_ever

from unimodel.errors import RunError
from unimodel.memory.record import ForgetPolicy, Hits, Record, StoreSettings, Where
from unimodel.memory.store import MemoryStore, stored_settings

MODEL = SETTINGS.model_hash


def brute_force(records: dict[int, Record], query: np.ndarray, k: int, where: Where) -> Hits:
    """What an exact search must find, one record after the other."""
    ids, scores = np.full((len(query), k), -1, np.int64), np.full((len(query), k), -np.inf, np.float32)
    for row, wanted in enumerate(query.astype(np.float32)):
        found = [
            (-float((np.asarray(record.key, np.float16).astype(np.float64) * wanted).sum()), id_)
            for id_, record in records.items()
            if where.agent in (None, record.agent)
            and where.episode in (None, record.episode)
            and (where.first_step is None or record.step >= where.first_step)
            and (where.last_step is None or record.step <= where.last_step)
        ]
        for column, (score, id_) in enumerate(sorted(found)[:k]):
            ids[row, column], scores[row, column] = id_, -score
    return Hits(ids, scores)


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of operations leaves the store equal to a dictionary that did the same."""

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(dir=memory))
        self.store = MemoryStore.create(self.folder / "0", SETTINGS)
        self.records: dict[int, Record] = {}
        self.used: dict[int, int] = {}
        self.next_id = 0
        self.branches = 0

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def drop(self, ids: list[int]) -> None:
        for id_ in ids:
            self.records.pop(id_)
            self.used.pop(id_, None)

    @rule(count=st.integers(1, 30), seed=st.integers(0, 1000))
    def append(self, count: int, seed: int) -> None:
        # Keys of few values: many are equal.
        rng = np.random.default_rng(seed)
        keys = rng.integers(-1, 2, (count, SETTINGS.dim))
        written = [replace(record, key=key) for record, key in zip(moments(seed, count), keys, strict=True)]
        ids = self.store.append(written)
        assert ids.tolist() == list(range(self.next_id, self.next_id + count))
        self.records.update(zip(ids.tolist(), written, strict=True))
        self.next_id += count

    @precondition(lambda self: self.records)
    @rule(data=st.data(), step=st.integers(0, 2000))
    def mark_used(self, data: st.DataObject, step: int) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.records)), max_size=4))
        self.store.mark_used(ids, step)
        self.used.update(dict.fromkeys(ids, step))

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.records)), max_size=6, unique=True))
        self.store.remove(ids)
        self.drop(ids)

    @precondition(lambda self: self.records)
    @rule(policy=st.sampled_from(ForgetPolicy), share=st.floats(0.3, 1))
    def forget(self, policy: ForgetPolicy, share: float) -> None:
        worth = {
            ForgetPolicy.AGE: lambda id_, record: record.step,
            ForgetPolicy.SURPRISE: lambda id_, record: record.surprise,
            ForgetPolicy.USE: lambda id_, record: max(record.step, self.used.get(id_, 0)),
        }[policy]
        order = sorted(self.records, key=lambda id_: (worth(id_, self.records[id_]), id_))
        budget = int(self.store.nbytes * share)
        try:
            gone = self.store.forget(budget, policy).tolist()
        except ValueError:
            assert len(self.records) < 4  # one record may be larger than the share of a few
            return
        assert gone == sorted(order[: len(gone)])
        assert self.store.nbytes <= budget
        self.drop(gone)

    @rule(back=st.integers(0, 40))
    def rewind_to_id(self, back: int) -> None:
        self.rewind([id_ for id_ in self.records if id_ >= self.next_id - back], self.next_id - back - 1, None)

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def rewind_to_step(self, data: st.DataObject) -> None:
        step = self.records[data.draw(st.sampled_from(sorted(self.records)))].step
        later = [id_ for id_, record in self.records.items() if record.step > step]
        last = max(id_ for id_, record in self.records.items() if record.step <= step)
        self.rewind(later, last, step)

    def rewind(self, dropped: list[int], last: int, step: int | None) -> None:
        where = {"last_id": last} if step is None else {"last_step": step}
        assert self.store.rewind(**where) == len(dropped)
        self.drop(dropped)
        self.next_id = max(min(self.next_id, last + 1), 0)
        if step is not None:
            self.used = {id_: min(used, step) for id_, used in self.used.items()}

    @rule()
    def compact(self) -> None:
        before = self.store.disk_bytes
        self.store.compact()
        assert self.store.disk_bytes <= before + 64 * 1024  # the manifest's log may grow

    @rule()
    def reencode(self) -> None:
        settings = self.store.settings
        self.store.reencode(encoded_otherwise, f"model-{settings.key_version}", settings.key_version + 1)
        for id_, record in self.records.items():
            self.records[id_] = replace(record, key=encoded_otherwise([record])[0])

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = MemoryStore(self.store.path, stored_settings(self.store.path).model_hash)

    @rule(stays=st.booleans())
    def branch(self, stays: bool) -> None:
        """One of the two goes on, changes and is compacted; the other is as it was."""
        self.branches += 1
        path = self.folder / str(self.branches)
        self.store.branch(path)
        other = MemoryStore(path, self.store.settings.model_hash)
        if not stays:
            self.store, other = other, self.store
        other.append(moments(7, 20))
        other.remove(other._index.live()[0]["id"][:10])
        other.compact()
        other.rewind(last_id=3)
        other.close()

    @rule(
        seed=st.integers(0, 1000),
        k=st.integers(1, 12),
        agent=st.sampled_from([None, 0, 1]),
        steps=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    )
    def search(self, seed: int, k: int, agent: int | None, steps: tuple[int, int]) -> None:
        query = np.random.default_rng(seed).integers(-2, 3, (3, SETTINGS.dim))
        for where in (Where(), Where(agent, first_step=min(steps), last_step=max(steps))):
            hits, expected = self.store.search(query, k, where), brute_force(self.records, query, k, where)
            assert np.array_equal(hits.ids, expected.ids) and np.array_equal(hits.scores, expected.scores)

    @invariant()
    def is_equal(self) -> None:
        assert len(self.store) == len(self.records) and self.store.next_id == self.next_id
        found = self.store.read(sorted(self.records))
        assert [content(record) for record in found] == [content(self.records[id_]) for id_ in sorted(self.records)]
        assert [record.last_used for record in found] == [self.used.get(id_) for id_ in sorted(self.records)]


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = hypothesis_settings(max_examples=20, stateful_step_count=20)


def test_search_equals_brute_force_on_real_numbers_of_many_chunks(path: Path) -> None:
    """Also where thousands of keys are equal, and whatever the segments are."""
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((9000, 16)).astype(np.float16)
    keys[2000:7000] = keys[rng.integers(3, size=5000)]
    records = {
        id_: Record(key=key, tokens=np.array([1]), step=id_, agent=id_ % 3, episode=id_ // 100)
        for id_, key in enumerate(keys)
    }
    query = np.concatenate([rng.standard_normal((2, 16)), keys[:2].astype(np.float32)])
    with MemoryStore.create(path, replace(SETTINGS, dim=16, segment_rows=5000)) as store:
        store.append(list(records.values()))
        store.remove([0, 5001])
        del records[0], records[5001]
        for where in (Where(), Where(agent=2), Where(episode=31), Where(first_step=4000, last_step=4010, agent=1)):
            hits, expected = store.search(query, 9, where), brute_force(records, query, 9, where)
            assert np.array_equal(hits.ids, expected.ids) and np.array_equal(hits.scores, expected.scores)


def test_search_by_pose_equals_brute_force(store: MemoryStore) -> None:
    records = moments(0, 200)
    store.append(records)
    poses = np.array([np.nan if record.pose is None else record.pose for record in records if record.pose])
    ids = np.array([id_ for id_, record in enumerate(records) if record.pose])
    wanted = np.random.default_rng(0).standard_normal((4, 3))
    distances = np.linalg.norm(poses[None] - wanted[:, None], axis=2)
    order = np.argsort(distances, axis=1, kind="stable")[:, :6]
    hits = store.search_pose(wanted, 6)
    assert np.array_equal(hits.ids, ids[order])
    np.testing.assert_allclose(-hits.scores, np.take_along_axis(distances, order, axis=1), rtol=1e-6)
    only = store.search_pose(wanted, 200, Where(agent=1)).ids
    assert set(only[0][only[0] >= 0]) == {id_ for id_ in ids if records[id_].agent == 1}


def test_what_is_not_there_is_said(path: Path, store: MemoryStore) -> None:
    store.append(moments(0, 3))
    store.remove([1])
    for id_ in (1, 3, -1):
        with pytest.raises(LookupError, match=f"no record {id_}"):
            store.read([0, id_])
    assert store.search(np.ones((1, 8)), 4).ids[0, 2:].tolist() == [-1, -1]
    with pytest.raises(FileExistsError, match="holds a store already"):
        store.close()
        MemoryStore.create(path, SETTINGS)
    with pytest.raises(FileNotFoundError, match="holds no store"):
        MemoryStore(path / "elsewhere", MODEL)
    assert not (path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": np.ones(7)}, "record 1: its key is"),
        ({"key": np.full(8, 1e6)}, "finite in fp16"),
        ({"key": np.full(8, np.nan)}, "finite in fp16"),
        ({"tokens": np.array([3, 1000])}, "record 1: id 1000 is outside the vocabulary of 1000"),
        ({"text": np.array([-1])}, "record 1: id -1"),
        ({"tokens": np.array([0.5])}, "whole numbers"),
        ({"pose": (1.0, 2.0)}, "record 1: pose"),
        ({"surprise": float("nan")}, "surprise is not finite"),
        ({"agent": 2**40}, "agent is not finite or too large"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_with_all_of_its_batch(
    change: dict[str, object], message: str, store: MemoryStore
) -> None:
    with pytest.raises(ValueError, match=message):
        store.append([moment(0), replace(moment(1), **change)])  # type: ignore[arg-type]
    assert len(store) == 0
    assert store.append([moment(0)]).tolist() == [0]


@pytest.mark.parametrize(
    "change", [{"dim": 0}, {"segment_rows": 0}, {"vocabulary_size": 2**33}, {"pose_dims": 5}, {"model_hash": ""}]
)
def test_settings_that_cannot_be_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SETTINGS, **change)  # type: ignore[arg-type]


def test_large_vocabularies_take_four_bytes(path: Path) -> None:
    tokens = np.array([0, 70_000, 99_999])
    with MemoryStore.create(path, replace(SETTINGS, vocabulary_size=100_000)) as store:
        store.append([replace(moment(0), tokens=tokens)])
        assert store.read([0])[0].tokens.tolist() == tokens.tolist()


def test_the_store_of_another_model_is_refused_until_it_is_reencoded(path: Path, store: MemoryStore) -> None:
    store.append(moments(0, 30))
    store.close()
    with pytest.raises(ValueError, match="holds keys of the model model-a.*reencode"):
        MemoryStore(path, "model-b")
    with MemoryStore(path, MODEL) as store:
        with pytest.raises(ValueError, match="key_version must grow"):
            store.reencode(encoded_otherwise, "model-b", 1)
        with pytest.raises(ValueError, match="encode gave"):
            store.reencode(lambda records: np.zeros((len(records), 3)), "model-b", 2)
        assert [content(record) for record in store.read(range(30))] == [content(moment(id_)) for id_ in range(30)]
        store.reencode(encoded_otherwise, "model-b", 2)
    with MemoryStore(path, "model-b") as store:
        record = store.read([3])[0]
        assert (record.model_hash, record.key_version) == ("model-b", 2)
        assert np.array_equal(record.key, encoded_otherwise([moment(3)])[0])
    with pytest.raises(ValueError, match="holds keys of the model model-b"):
        MemoryStore(path, MODEL)


def test_budgets(store: MemoryStore) -> None:
    store.append(moments(0, 20))
    with pytest.raises(ValueError, match="a budget of 10 bytes holds no record"):
        store.forget(10, ForgetPolicy.AGE)
    largest = max(store.nbytes - 1, 1)
    assert store.forget(largest + 1, ForgetPolicy.AGE).size == 0
    assert store.forget(largest, ForgetPolicy.AGE).tolist() == [0]
    store.remove(range(2, 20))
    with pytest.raises(ValueError, match="holds no record: the last one to go"):
        store.forget(store.nbytes - 1, ForgetPolicy.AGE)
    assert len(store) == 1


def test_a_second_writer_is_told_who_writes(path: Path, store: MemoryStore) -> None:
    with pytest.raises(RunError, match=f"in this process already \\({os.getpid()}\\)"):
        MemoryStore(path, MODEL)
    store.append(moments(0, 3))

    def write_in_a_copy() -> None:
        try:
            store.append(moments(3, 3))
        except RunError:
            os._exit(7)

    assert forked(write_in_a_copy) == 7
    store.close()
    reader, writer = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(path, writer))
    process.start()
    assert os.read(reader, 5) == b"begun"
    for _ in range(2):  # asking does not take the lock away
        with pytest.raises(RunError, match=f"open for writing in process {process.pid}: stop it, or only read"):
            MemoryStore(path, MODEL)
    with MemoryStore(path, MODEL, read_only=True) as other:
        assert len(other.read([0, 1, 2])) == 3
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    os.close(reader)
    os.close(writer)
    MemoryStore(path, MODEL).close()


def test_readers_see_commits_and_survive_what_the_writer_does(path: Path, store: MemoryStore) -> None:
    store.append(moments(0, 30))
    with MemoryStore(path, MODEL, read_only=True) as reader:
        store.append(moments(30, 10))
        store.remove([0])
        store.rewind(last_id=34)
        store.compact()
        store.append([moment(0)] * 5)
        assert everything(reader) == {id_: content(moment(id_)) for id_ in range(30)}
        reader.refresh()
        assert everything(reader) == everything(store) and len(reader) == 39
        for change in (
            lambda: reader.append(moments(0, 1)),
            lambda: reader.mark_used([1], 1),
            lambda: reader.remove([1]),
            lambda: reader.forget(10**9, ForgetPolicy.AGE),
            lambda: reader.rewind(last_id=1),
            reader.compact,
            lambda: reader.branch(path.with_name("branch")),
        ):
            with pytest.raises(io.UnsupportedOperation, match="read-only"):
                change()
        store.reencode(encoded_otherwise, "model-b", 2)
        with pytest.raises(ValueError, match="model-b"):
            reader.refresh()


def test_a_branch_shares_what_no_longer_grows(path: Path, store: MemoryStore) -> None:
    store.append(moments(0, 30))
    branch = path.with_name("branch")
    store.branch(branch)
    shared = {file.name: file.stat().st_nlink == 2 for file in (branch / "segments").iterdir()}
    assert sum(shared.values()) == 6 and len(shared) == 9
    with pytest.raises(FileExistsError, match="is there already"):
        store.branch(branch)


def test_a_branch_on_another_disk_is_copied(store: MemoryStore, tmp_path: Path) -> None:
    if store.path.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one disk only")
    store.append(moments(0, 30))
    store.branch(tmp_path / "branch")
    with MemoryStore(tmp_path / "branch", MODEL) as branch:
        assert everything(branch) == everything(store)


def test_a_store_needs_its_settings() -> None:
    assert StoreSettings("w", "m", 4, 2**16).id_dtype.itemsize == 2
    assert StoreSettings("w", "m", 4, 2**16 + 1).id_dtype.itemsize == 4
