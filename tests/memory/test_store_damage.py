"""The store against flipped bytes, files that lost their end, and full disks.

Run: pytest tests/memory/test_store_damage.py
"""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pytest
from store_writer import SETTINGS, content, encoded_otherwise, everything, forked, moment, moments

from unimodel.memory.record import ForgetPolicy
from unimodel.memory.store import MemoryStore

MODEL = SETTINGS.model_hash


def flip(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 0x10
    file.write_bytes(content)


@pytest.mark.parametrize("suffix", ["rows", "tokens", "keys"])
def test_a_flipped_byte_is_found_wherever_it_is(suffix: str, path: Path, store: MemoryStore) -> None:
    store.append(moments(0, 30))
    store.close()
    file = next(path.glob(f"segments/00000001*.{suffix}"))
    intact = file.read_bytes()
    rng = np.random.default_rng(0)
    for offset in rng.choice(len(intact), size=40, replace=False):
        flip(file, int(offset))
        with MemoryStore(path, MODEL, read_only=True) as store:
            (damage,) = store.damages()
            assert damage.file == file and damage.offset <= offset < damage.offset + 500
            number = damage.segment * SETTINGS.segment_rows + damage.place  # nothing was compacted away
            with pytest.raises(ValueError, match=f"{file.name}: record .* at byte {damage.offset} is damaged"):
                store.read([number])
        file.write_bytes(intact)
    flip(file, int(offset))
    other = 12 if number != 12 else 13
    with MemoryStore(path, MODEL) as store:
        store.remove([other])  # so that its segment is worth compacting
        with pytest.raises(ValueError, match="is damaged"):
            store.compact()
        assert store.drop_damaged() == [damage]
        expected = {id_: content(moment(id_)) for id_ in range(30) if id_ not in (number, other)}
        assert everything(store) == expected
        store.compact()
        assert not store.damages()
        assert everything(store) == expected


def test_a_damaged_hit_is_refused(path: Path, store: MemoryStore) -> None:
    store.append(moments(0, 5))
    store.close()
    flip(path / "segments" / "00000000.tokens", 3)
    with MemoryStore(path, MODEL) as store, pytest.raises(ValueError, match=r"00000000.tokens: record 0 at byte 0"):
        store.search(np.ones((1, 8)), 5)


@pytest.mark.parametrize("suffix", ["rows", "tokens", "keys"])
def test_a_file_that_lost_its_end_is_named(suffix: str, path: Path, store: MemoryStore) -> None:
    store.append(moments(0, 5))
    store.close()
    file = next(path.glob(f"segments/*.{suffix}"))
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(ValueError, match=f"{file.name} ends at byte {file.stat().st_size}"):
        MemoryStore(path, MODEL)
    file.unlink()
    with pytest.raises(ValueError, match=f"{file.name} is missing"):
        MemoryStore(path, MODEL)


def test_a_damaged_manifest_is_named(path: Path, store: MemoryStore) -> None:
    store.append(moments(0, 5))
    store.close()
    file = path / "manifest.sqlite"
    intact = file.read_bytes()
    for place in (intact.index(b'"payload_bytes"') + 18, intact.index(b'"next_id"') + 11, 3):
        flip(file, place)
        with pytest.raises(ValueError, match=r"manifest.sqlite.*damaged"):
            MemoryStore(path, MODEL)
        with pytest.raises(ValueError, match=r"manifest.sqlite.*damaged"):
            MemoryStore(path, MODEL, read_only=True)
        file.write_bytes(intact)
    connection = sqlite3.connect(file)
    connection.execute("DELETE FROM state")
    connection.commit()
    connection.close()
    with pytest.raises(ValueError, match="has lost the state"):
        MemoryStore(path, MODEL)


# Full disks ---------------------------------------------------------------------------------------------------------


def fill(store: MemoryStore) -> OSError:
    """Appends until there is no room."""
    for _ in range(10_000):
        try:
            store.append(moments(store.next_id, 8))
        except OSError as error:
            return error
    raise AssertionError("the disk is larger than thought")


def use_up(disk: Path) -> None:
    """To the last byte."""
    with (disk / "filler").open("ab", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(bytes(4096))


def test_a_full_disk_loses_nothing_and_the_store_goes_on(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True, check=False)
    if mounting.returncode:
        pytest.skip("file systems of one megabyte can be mounted by root only")
    try:
        (disk / "ballast").write_bytes(bytes(300_000))
        with MemoryStore.create(disk / "store", SETTINGS) as store:
            error = fill(store)
            assert error.errno == errno.ENOSPC and "all that was committed before is kept" in str(error)
            use_up(disk)
            fill(store)  # there was room left in the log of the manifest
            kept = store.next_id
            for change in (
                lambda: store.append(moments(kept, 300)),
                lambda: store.branch(disk / "branch"),
                lambda: store.reencode(encoded_otherwise, MODEL, 2),
            ):
                use_up(disk)
                with pytest.raises(OSError, match="no room on the disk"):
                    change()
                assert everything(store) == {id_: content(moment(id_)) for id_ in range(kept)}
            (disk / "ballast").unlink()
            store.forget(store.nbytes // 2, ForgetPolicy.AGE)
            store.compact()
            assert store.append(moments(kept, 100)).tolist() == list(range(kept, kept + 100))
            use_up(disk)
        (disk / "filler").unlink()
        with MemoryStore(disk / "store", MODEL) as store:
            assert not store.damages() and store.next_id == kept + 100
            assert store.append(moments(0, 1)).tolist() == [kept + 100]
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_files_that_may_not_grow_are_like_a_full_disk(path: Path, store: MemoryStore) -> None:
    """Of the manifest too, which is what hits this limit when tokens are few."""
    store.close()

    def run(limit_bytes: int) -> None:
        with MemoryStore(path, MODEL) as store:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
            error = fill(store)
            assert "all that was committed before is kept" in str(error), error
            assert everything(store) == {id_: content(moment(id_)) for id_ in range(store.next_id)}
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            store.append(moments(store.next_id, 100))

    for limit_bytes in (500, 2_000, 100_000):
        assert forked(lambda limit_bytes=limit_bytes: run(limit_bytes)) == 0
    with MemoryStore(path, MODEL) as store:
        assert not store.damages()
        assert everything(store) == {id_: content(moment(id_)) for id_ in range(store.next_id)}
