"""A store whose writer is killed, wherever it is, opens at its last commit.

Run: pytest tests/memory/test_store_killed.py
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from store_writer import SETTINGS, Killer, content, everything, forked, moment, write_for_ever

from unimodel.memory.record import ForgetPolicy, Record
from unimodel.memory.store import MemoryStore, stored_settings

MEMORY_FILES = Path("/dev/shm")


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """A folder in memory where there is one: what is killed is a process, not the power."""
    with tempfile.TemporaryDirectory(dir=MEMORY_FILES if MEMORY_FILES.is_dir() else None) as folder:
        yield Path(folder)


def uncommitted_bytes(path: Path) -> int:
    """What the segment files lose when the store is opened. Opens it."""
    before = sum(file.stat().st_size for file in (path / "segments").iterdir())
    MemoryStore(path, SETTINGS.model_hash).close()
    return before - sum(file.stat().st_size for file in (path / "segments").iterdir())


def kill_writers(path: Path, kills: int) -> None:
    """Starts writers one after the other on one store, kills each at a random moment, and compares."""
    MemoryStore.create(path, SETTINGS).close()
    rng = random.Random(0)
    expected = 0
    in_the_midst = torn = 0
    for _ in range(kills):
        reader, writer = os.pipe()
        process = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(path, writer))
        process.start()
        os.close(writer)
        with os.fdopen(reader) as lines:
            first = [lines.readline() for _ in range(rng.randrange(1, 10))]
            time.sleep(rng.uniform(0, 0.02))
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            told = [line.split() for line in [*first, *lines]]
        begun = max(int(number) for word, number in told if word == "begun")
        committed = max([expected, *(int(number) for word, number in told if word == "committed")])
        in_the_midst += begun > committed
        torn += uncommitted_bytes(path) > 0
        with MemoryStore(path, SETTINGS.model_hash) as store:
            # All that was told to be committed, or one batch more: killed between the commit and the telling.
            assert store.next_id in (committed, begun) and len(store) == store.next_id
            new = range(expected, store.next_id)
            assert [content(record) for record in store.read(new)] == [content(moment(id_)) for id_ in new]
            expected = store.next_id
    with MemoryStore(path, SETTINGS.model_hash) as store:
        assert not store.damages() and len(store) == expected
        assert [content(record) for record in store.read(range(expected))] == [
            content(moment(id_)) for id_ in range(expected)
        ]
    print(f"{kills} kills, {in_the_midst} within an append, {torn} with uncommitted bytes, {expected} records kept")
    assert in_the_midst and torn


def test_few_kills_lose_no_committed_record(tmp_path: Path) -> None:
    kill_writers(tmp_path / "store", kills=15)


@pytest.mark.slow
def test_many_kills_lose_no_committed_record(tmp_path: Path) -> None:
    kill_writers(tmp_path / "store", kills=200)


def other_model(records: list[Record]) -> np.ndarray:
    return np.stack([record.tokens[:1] + np.arange(SETTINGS.dim) for record in records]).astype(np.float32)


OPERATIONS: dict[str, Callable[[MemoryStore], object]] = {
    "append": lambda store: store.append([moment(store.next_id + offset) for offset in range(5)]),
    "append over several segments": lambda store: store.append([moment(store.next_id + n) for n in range(25)]),
    "forget": lambda store: store.forget(store.nbytes // 2, ForgetPolicy.SURPRISE),
    "compact": lambda store: store.compact(),
    "rewind within the open segment": lambda store: store.rewind(last_id=26),
    "rewind to a step": lambda store: store.rewind(last_step=8),
    "reencode": lambda store: store.reencode(other_model, "model-b", 2),
    "branch": lambda store: store.branch(store.path.with_name("branch")),
}


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A store with two full segments, an open one, and records forgotten in each."""
    with tempfile.TemporaryDirectory(dir=MEMORY_FILES if MEMORY_FILES.is_dir() else None) as folder:
        path = Path(folder) / "template"
        with MemoryStore.create(path, SETTINGS) as store:
            store.append([moment(id_) for id_ in range(30)])
            store.remove([0, 3, 11, 12, 25, 29])
            store.mark_used([1, 26], 70)
        yield path


@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_before_any_call_it_is_as_before_or_as_after(operation: str, template: Path, fast_path: Path) -> None:
    change = OPERATIONS[operation]

    def run(path: Path, at: int | None) -> tuple[int, int]:
        """Exit code and number of calls of the change in another process."""
        reader, writer = os.pipe()

        def target() -> None:
            store = MemoryStore(path, SETTINGS.model_hash)
            killer = Killer(at)
            killer.arm(store)
            change(store)
            os.write(writer, b"%d" % killer.calls)

        code = forked(target)
        os.close(writer)
        with os.fdopen(reader) as output:
            return code, int(output.read() or 0)

    def opened(path: Path) -> tuple[str, dict[int, tuple[object, ...]]]:
        with MemoryStore(path, stored_settings(path).model_hash) as store:
            named = {name for entry in store._index.entries for name in entry.names}
            assert {file.name for file in (path / "segments").iterdir()} == named
            assert not store.damages()
            return store.settings.model_hash, everything(store)

    before = opened(template)
    whole = fast_path / "whole" / "store"
    shutil.copytree(template, whole)
    code, calls = run(whole, None)
    after = opened(whole)
    assert code == 0 and calls and (after != before or operation in ("compact", "branch"))
    for at in range(calls):
        path = fast_path / str(at) / "store"
        shutil.copytree(template, path)
        assert run(path, at)[0] == -signal.SIGKILL
        assert opened(path) in (before, after), f"killed before call {at} of {calls}"
        branch = path.with_name("branch")
        if branch.exists():
            assert opened(branch) == before
        with MemoryStore(path, stored_settings(path).model_hash) as store:  # and it goes on
            store.append([moment(0)])
            assert content(store.read([store.next_id - 1])[0]) == content(moment(0))
        shutil.rmtree(path.parent)


def test_killed_while_it_is_made_it_is_made_again(fast_path: Path) -> None:
    for at in range(100):
        path = fast_path / str(at)

        def target(path: Path = path, at: int = at) -> None:
            Killer(at).arm(None)
            MemoryStore.create(path, SETTINGS)

        if forked(target) == 0:
            assert at > 2
            break
        try:
            MemoryStore(path, SETTINGS.model_hash).close()
        except FileNotFoundError:
            MemoryStore.create(path, SETTINGS).close()
