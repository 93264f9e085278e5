"""The cache that processes of a host share: one download each, never over its limit, nothing that blocks.

Run: pytest tests/data/test_cache.py
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from file_server import Faults, file_server
from recorded_data import flip
from toy_shards import write_toy_shards

from data_pipelines.shards.cache import BlockCache, default_cache
from data_pipelines.shards.reader import ShardReader

READ_ALL = """
import random, sys
from pathlib import Path
from data_pipelines.shards.cache import BlockCache
from data_pipelines.shards.reader import ShardReader
address, cache, limit, seed = sys.argv[1:]
reader = ShardReader(address, BlockCache(Path(cache), int(limit)))
numbers = list(range(len(reader)))
random.Random(int(seed)).shuffle(numbers)
for number in numbers:
    reader.read(number)
"""
LARGE = 1 << 30


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_toy_shards(folder, shards=5, samples=10, filler=2000)
    return folder


def expected(toy: Path) -> list[tuple[str, dict[str, bytes]]]:
    reader = ShardReader(toy)
    return [reader.read(number) for number in range(len(reader))]


def start(address: str, cache: Path, limit: int = LARGE, seed: int = 0) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", READ_ALL, address, str(cache), str(limit), str(seed)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)


def block_files(cache: Path) -> list[Path]:
    return [path for path in (cache / "blocks").rglob("*") if path.is_file()]


def test_processes_download_every_block_once(toy: Path, tmp_path: Path) -> None:
    with file_server(toy, Faults(latency_seconds=0.05)) as faults:
        readers = [start(faults.address, tmp_path, seed=seed) for seed in range(3)]
        said = [reader.communicate(timeout=60)[1] for reader in readers]
    assert [reader.returncode for reader in readers] == [0, 0, 0], said
    asked = {name: count for name, count in faults.asked.items() if name != "index.json"}
    assert len(asked) == 10 and set(asked.values()) == {1}, asked


def test_a_killed_download_blocks_nobody(toy: Path, tmp_path: Path) -> None:
    """Killed while it holds the lock and waits for the server; half a block of an earlier death lies there too."""
    with file_server(toy, Faults()) as faults:
        cache = BlockCache(tmp_path)
        ShardReader(faults.address, cache).key(0)
        faults.asked.clear()
        faults.hangs_at = ".tar "
        killed = start(faults.address, tmp_path)
        deadline = time.monotonic() + 60
        while not any(".tar " in name for name in faults.asked):
            assert time.monotonic() < deadline and killed.poll() is None
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        faults.hangs_at = ""
        for block in block_files(tmp_path):
            block.with_name(block.name + ".partial").write_bytes(b"half")
        reader = ShardReader(faults.address, cache)
        assert [reader.read(number) for number in range(len(reader))] == expected(toy)


def size_of(path: Path) -> int:
    """Bytes; 0 of what another process has evicted since it was listed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_eviction_never_takes_what_is_read(toy: Path, tmp_path: Path) -> None:
    shard_bytes = (toy / "toy-000.tar").stat().st_size
    limit = int(2.5 * shard_bytes)
    cache = BlockCache(tmp_path, limit)
    with file_server(toy) as faults:
        others = [start(faults.address, tmp_path, limit, seed) for seed in range(2)]
        reader = ShardReader(faults.address, cache)
        while any(other.poll() is None for other in others):
            assert [reader.read(number) for number in range(len(reader))] == expected(toy)
            assert sum(size_of(path) for path in block_files(tmp_path)) <= limit
        assert [other.returncode for other in others] == [0, 0]


def test_an_open_block_outlives_its_name(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 250)
    held = cache.open("aa", 100, lambda: b"a" * 100)
    for key in ("bb", "cc", "dd"):
        assert cache.open(key, 100, lambda: b"x" * 100) is not None
    assert not cache.has("aa") and held is not None
    assert os.pread(held.descriptor, 100, 0) == b"a" * 100


def test_what_was_used_last_stays(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 350)
    for key in ("aa", "bb", "cc"):
        cache.open(key, 100, lambda: bytes(100))
    assert cache.has("aa")  # a use
    cache.open("dd", 100, lambda: bytes(100))
    assert [key for key in ("aa", "bb", "cc", "dd") if cache.has(key)] == ["aa", "cc", "dd"]


@pytest.mark.parametrize("limit", [0, 1000])
def test_a_limit_below_one_block_reads_without_the_cache(
    toy: Path, tmp_path: Path, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    with file_server(toy) as faults:
        reader = ShardReader(faults.address, BlockCache(tmp_path, limit))
        assert [reader.read(number) for number in range(len(reader))] == expected(toy)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == (limit > 0)
    assert not limit or "UNIMODEL_CACHE_BYTES" in warnings[0].getMessage()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_disk_smaller_than_the_limit_old_blocks_make_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as folder:
        cache = BlockCache(folder, LARGE)
        for number in range(12):
            file = cache.open(f"{number:02x}aa", 16_000, lambda: bytes(16_000))
            assert file is not None
        assert 2 <= len(block_files(folder)) <= 3
    assert not caplog.records


def test_a_full_disk_is_told_once_and_reading_goes_on(
    toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as folder, file_server(toy) as faults:
        with pytest.raises(OSError, match="No space"):
            (folder / "others").write_bytes(bytes(1 << 20))
        reader = ShardReader(faults.address, BlockCache(folder, LARGE))
        assert [reader.read(number) for number in range(len(reader))] == expected(toy)
    (record,) = caplog.records
    assert "No space left" in record.getMessage() and "UNIMODEL_CACHE" in record.getMessage()


LIMITED = "import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"


def test_a_limit_of_file_sizes_is_told_once_and_reading_goes_on(toy: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with file_server(toy) as faults:
        arguments = [sys.executable, "-c", LIMITED + READ_ALL, faults.address, str(tmp_path), str(LARGE), "0"]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stderr.count("File too large") == 1, done.stderr
    assert all(path.stat().st_size < 5000 for path in block_files(tmp_path))


def test_a_cache_folder_that_cannot_be_is_told_once(
    toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with file_server(toy) as faults:
        reader = ShardReader(faults.address, BlockCache(tmp_path / "file" / "cache"))
        assert [reader.read(number) for number in range(len(reader))] == expected(toy)
    (record,) = caplog.records
    assert str(tmp_path / "file") in record.getMessage()


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_damage_in_the_cache_is_fetched_again(toy: Path, tmp_path: Path, damage: str) -> None:
    with file_server(toy) as faults:
        reader = ShardReader(faults.address, BlockCache(tmp_path))
        assert [reader.read(number) for number in range(len(reader))] == expected(toy)
        for block in block_files(tmp_path):
            if damage == "flipped":
                flip(block, block.stat().st_size // 2)
            else:
                os.truncate(block, block.stat().st_size // 2)
        again = ShardReader(faults.address, BlockCache(tmp_path))
        assert [again.read(number) for number in range(len(again))] == expected(toy)


def test_a_reader_of_an_address_travels_to_other_processes(toy: Path, tmp_path: Path) -> None:
    with file_server(toy) as faults:
        reader = ShardReader(faults.address, BlockCache(tmp_path, LARGE))
        assert pickle.loads(pickle.dumps(reader)).read(7) == reader.read(7)


def test_the_environment_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMODEL_CACHE", str(tmp_path))
    monkeypatch.setenv("UNIMODEL_CACHE_BYTES", "12")
    assert (default_cache().folder, default_cache().limit_bytes) == (tmp_path, 12)
    monkeypatch.setenv("UNIMODEL_CACHE_BYTES", "lots")
    with pytest.raises(ValueError, match="UNIMODEL_CACHE_BYTES=lots: it must be a whole number"):
        default_cache()
