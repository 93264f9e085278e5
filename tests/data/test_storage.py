"""Shards read from afar: the same bytes as local ones, whatever the network does; lasting failures are named at once.

Run: pytest tests/data/test_storage.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from file_server import Faults, file_server
from object_store import BUCKET, CREDENTIALS, object_store
from recorded_data import flip
from toy_shards import ToyData, write_toy_shards
from typer.testing import CliRunner

from data_pipelines.shards.cache import BlockCache
from data_pipelines.shards.download import RequestLimits
from data_pipelines.shards.index import read_manifest, split_folders
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.remote import RemoteStorage
from data_pipelines.shards.stats import dataset_stats
from data_pipelines.shards.storage import StorageError, as_folder, local_folder
from data_pipelines.shards.verify import verify_dataset
from unimodel.batch import PackedBatch
from unimodel.cli import app
from unimodel.tokenizers.prepare import read_episodes

STEPS = 40
IMPATIENT = RequestLimits(request_seconds=5.0, patience_seconds=0.3, first_delay_seconds=0.01)
HASTY = RequestLimits(request_seconds=5.0, patience_seconds=30.0, first_delay_seconds=0.001)

Serve = Callable[[Path, Faults], Faults]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts web servers that end with the test."""
    running = []

    def start(folder: Path, faults: Faults) -> Faults:
        running.append(file_server(folder, faults))
        return running[-1].__enter__()

    yield start
    for server in running:
        server.__exit__(None, None, None)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_toy_shards(folder / "train", filler=3000)
    return folder


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shard is several blocks, and many samples lie in two."""
    monkeypatch.setattr("data_pipelines.shards.remote.BLOCK_BYTES", 10_000)


def batches(reader: ShardReader, workers: int) -> list[PackedBatch]:
    stream = ToyData(reader).stream(workers)
    steps = [next(stream) for _ in range(STEPS)]
    stream.close()
    assert not any(step.bad_samples for step in steps)
    return [step.batch for step in steps]


def are_equal(some: list[PackedBatch], others: list[PackedBatch]) -> bool:
    tensors = [field.name for field in fields(PackedBatch) if isinstance(getattr(some[0], field.name), torch.Tensor)]
    assert "input_ids" in tensors
    pairs = zip(some, others, strict=True)
    return all(torch.equal(getattr(a, name), getattr(b, name)) for a, b in pairs for name in tensors)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_web_gives_the_batches_of_the_disk(
    toy: Path, tmp_path: Path, serve: Serve, small_blocks: None, workers: int
) -> None:
    faults = serve(toy, Faults(latency_seconds=0.005, failure_share=0.1))
    reader = ShardReader(f"{faults.address}/train", BlockCache(tmp_path))
    assert are_equal(batches(reader, workers), batches(ShardReader(toy / "train"), 0))
    assert faults.failed > 3, "failures were met"
    assert max(faults.answered.values()) == 1, "nothing whole was sent twice"


def test_s3_gives_the_batches_of_the_disk(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_blocks: None
) -> None:
    for package in ("s3fs", "moto.server"):
        pytest.importorskip(package)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with object_store(toy, Faults(latency_seconds=0.005, failure_share=0.1)) as faults:
        monkeypatch.setenv("AWS_ENDPOINT_URL", faults.address)
        assert split_folders(f"s3://{BUCKET}") == {"train": f"s3://{BUCKET}/train"}
        for workers in (0, 2):
            reader = ShardReader(f"s3://{BUCKET}/train", BlockCache(tmp_path / str(workers)))
            assert are_equal(batches(reader, workers), batches(ShardReader(toy / "train"), 0))
        assert faults.failed > 3, "failures were met"
        with pytest.raises(FileNotFoundError, match=rf"s3://{BUCKET}/nothing has no index.json"):
            ShardReader(f"s3://{BUCKET}/nothing")
        faults.status = 403
        with pytest.raises(PermissionError, match=rf"s3://{BUCKET}/train/index.json: access refused.*AWS_PROFILE"):
            ShardReader(f"s3://{BUCKET}/train")


def test_a_missing_store_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ValueError, match=r"s3://bucket/x: to read s3:// pip install 'unimodel\[s3\]'"):
        ShardReader("s3://bucket/x", BlockCache(tmp_path))


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (404, FileNotFoundError, "has no index.json"),
        (403, PermissionError, "access refused.*403"),
        (401, PermissionError, "credentials"),
        (400, StorageError, "refused with status 400"),
    ],
)
def test_a_lasting_error_is_named_at_once(
    toy: Path, serve: Serve, status: int, error: type[OSError], words: str
) -> None:
    faults = serve(toy, Faults(status=status))
    with pytest.raises(error, match=words) as caught:
        ShardReader(f"{faults.address}/train")
    assert faults.address in str(caught.value) and sum(faults.asked.values()) == 1


@pytest.mark.parametrize("kind", ["503", "reset", "cut"])
def test_an_endless_failure_ends_in_an_error_that_names_it(toy: Path, serve: Serve, kind: str) -> None:
    faults = serve(toy, Faults(failure_share=1.0, kinds=(kind,)))
    with pytest.raises(StorageError, match=r"train/index.json: still failing after \d+ tries.*check the network"):
        RemoteStorage(f"{faults.address}/train", limits=IMPATIENT).read_file("index.json")
    assert faults.failed > 1


def test_a_silent_server_is_left_after_the_time_limit(toy: Path, serve: Serve) -> None:
    faults = serve(toy, Faults(latency_seconds=5.0))
    limits = RequestLimits(request_seconds=0.1, patience_seconds=0.3, first_delay_seconds=0.01)
    with pytest.raises(StorageError, match="Timeout"):
        RemoteStorage(f"{faults.address}/train", limits=limits).read_file("index.json")


@pytest.mark.parametrize("limit", [0, 1 << 30], ids=["direct", "cached"])
def test_short_answers_are_never_taken(toy: Path, tmp_path: Path, serve: Serve, small_blocks: None, limit: int) -> None:
    """They end well, with the length that they announce."""
    (shard, *_) = read_manifest(toy / "train").shards
    faults = serve(toy, Faults())
    storage = RemoteStorage(f"{faults.address}/train", BlockCache(tmp_path, limit), HASTY)
    faults.failure_share, faults.kinds = 0.5, ("short",)
    expected = (toy / "train" / shard.file).read_bytes()
    got = [storage.read_range(shard, offset, 2000) for offset in range(0, shard.size_bytes, 2000)]
    assert b"".join(got) == expected and faults.failed
    faults.failure_share = 1.0
    with pytest.raises(ValueError, match=r"toy-001\.tar: \d+ of \d+ bytes came.*8 times.*data verify"):
        storage.read_range(read_manifest(toy / "train").shards[1], 0, 2000)


def test_a_server_without_ranges_is_refused(toy: Path, tmp_path: Path, serve: Serve) -> None:
    faults = serve(toy, Faults(has_ranges=False))
    reader = ShardReader(f"{faults.address}/train", BlockCache(tmp_path, 0))
    with pytest.raises(StorageError, match=r"toy-000.tar: this server gives whole files only"):
        reader.read(0)


def test_an_outage_in_a_run_stops_it_and_spoils_no_sample(toy: Path, tmp_path: Path, serve: Serve) -> None:
    """Neither while planning nor in a worker is it taken for a dead worker or a damaged sample."""
    faults = serve(toy, Faults())
    for workers in (0, 1):
        reader = ShardReader(f"{faults.address}/train", BlockCache(tmp_path / str(workers)))
        faults.status = 400
        stream = ToyData(reader).stream(workers)
        with pytest.raises(StorageError, match="status 400"):
            next(stream)
        stream.close()
        faults.status = 0


def test_a_damaged_remote_sample_is_named_like_a_local_one(copied: Path, tmp_path: Path, serve: Serve) -> None:
    place = ShardReader(copied / "train").entry(5).members["frames.png"]
    flip(copied / "train/train-000001.tar", place.offset + 20)
    faults = serve(copied, Faults())
    reader = ShardReader(f"{faults.address}/train", BlockCache(tmp_path / "cache", 0))
    with pytest.raises(ValueError, match=rf"{faults.address}/train/train-000001.tar.*frames.png at byte.*checksum"):
        reader.read(5)
    report = verify_dataset(faults.address)
    (problem,) = report.problems
    assert problem.shard == f"{faults.address}/train/train-000001.tar" and problem.key == reader.key(5)


def test_verify_stats_and_episodes_of_an_address(
    recorded: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNIMODEL_CACHE", str(tmp_path))
    faults = serve(recorded, Faults(failure_share=0.05))
    assert set(split_folders(faults.address)) == {"test", "train", "validation"}
    assert verify_dataset(faults.address).ok
    assert dataset_stats(faults.address) == dataset_stats(recorded)
    assert [e.key for e in read_episodes(f"{faults.address}/train")] == [
        e.key for e in read_episodes(recorded / "train")
    ]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://key:secret@bucket/x", "must not hold a name or password"),
        ("https://host/x?signature=secret", "no query"),
        ("simplecache::s3://bucket/x", "one protocol"),
    ],
)
def test_an_address_with_secrets_or_chains_is_refused_without_telling_them(address: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        as_folder(address)
    assert "secret" not in str(caught.value)


def test_addresses_and_paths_are_told_apart(tmp_path: Path) -> None:
    assert as_folder("s3://bucket/x/") == "s3://bucket/x"
    assert as_folder(f"file://{tmp_path}") == as_folder(str(tmp_path)) == tmp_path
    with pytest.raises(ValueError, match="lost a slash in Path"):
        ShardReader(Path("s3://bucket/x"))
    with pytest.raises(ValueError, match="written to a local folder"):
        local_folder("s3://bucket/x")


def test_recording_to_an_address_is_refused(tmp_path: Path) -> None:
    config = Path(__file__).parents[2] / "configs" / "demo.yaml"
    done = CliRunner().invoke(app, ["data", "record", str(config), "--set", "data.folder=s3://bucket/x"])
    assert isinstance(done.exception, ValueError) and "local folder" in str(done.exception)
