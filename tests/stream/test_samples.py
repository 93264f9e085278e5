"""Decoded samples in planned order: the same batches for any number of ranks and workers, whenever it was stopped.

Run: pytest tests/stream/test_samples.py
"""

from __future__ import annotations

import io
import json
import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.shards.index import Manifest, write_manifest
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.writer import write_shard
from data_pipelines.sources.picture import decode_picture
from data_pipelines.stream.samples import SampleBatch, SampleSettings, SampleStream
from data_pipelines.stream.workers import WorkerError

SAMPLES, SHARD_SAMPLES, BATCH = 60, 20, 12
"""Five batches an epoch; 12 divides among 1, 2, 3 and 4 ranks."""


def encoded(pixels: np.ndarray | Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def pixels(number: int) -> np.ndarray:
    """Of two sizes: every third sample is wider."""
    shape = (6, 9 if number % 3 == 0 else 7, 3)
    return np.random.default_rng(number).integers(256, size=shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    shards = [
        write_shard(
            folder / f"s{first}.tar",
            (
                (f"k{n}", {"png": encoded(pixels(n)), "json": json.dumps({"n": n}).encode()}, {})
                for n in range(first, first + SHARD_SAMPLES)
            ),
        )
        for first in range(0, SAMPLES, SHARD_SAMPLES)
    ]
    write_manifest(folder, Manifest(tuple(shards)))
    return folder


def decode(key: str, fields: dict[str, bytes]) -> dict[str, object]:
    return {"number": np.array(json.loads(fields["json"])["n"]), "image": decode_picture(fields["png"]), "name": key}


def stream(folder: Path, rank: int = 0, num_ranks: int = 1, workers: int = 0, seed: int = 0) -> SampleStream:
    settings = SampleSettings(BATCH, seed, rank, num_ranks, workers)
    return SampleStream(ShardReader(folder), decode, settings)


def numbers(batch: SampleBatch) -> list[int]:
    return batch.samples["number"].tolist()


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> list[list[int]]:
    source = stream(folder)
    return [numbers(next(source)) for _ in range(12)]


def test_every_sample_comes_once_an_epoch_in_an_order_of_its_own(folder: Path, uninterrupted: list[list[int]]) -> None:
    first, second = (sum(uninterrupted[start : start + 5], []) for start in (0, 5))
    assert sorted(first) == sorted(second) == list(range(SAMPLES))
    assert first != second and first != sorted(first)
    assert numbers(next(stream(folder, seed=1))) != uninterrupted[0]


@pytest.mark.parametrize(("before", "after"), [((1, 0), (3, 2)), ((2, 2), (1, 1)), ((4, 1), (2, 0))])
def test_going_on_with_other_ranks_and_workers_is_exact(
    folder: Path, uninterrupted: list[list[int]], before: tuple[int, int], after: tuple[int, int]
) -> None:
    """Over the end of an epoch; what workers had built ahead when the stream was left is not lost."""
    state, done = None, 0
    for (num_ranks, workers), batches in ((before, 4), (after, 5)):
        ranks = [stream(folder, rank, num_ranks, workers) for rank in range(num_ranks)]
        for rank in ranks:
            if state is not None:
                rank.load_state_dict(state)
        for _ in range(batches):
            parts = [numbers(next(rank)) for rank in ranks]
            assert {len(part) for part in parts} == {BATCH // num_ranks}
            assert sorted(sum(parts, [])) == sorted(uninterrupted[done])
            done += 1
        states = [rank.state_dict() for rank in ranks]
        assert all(one == states[0] for one in states)
        state = json.loads(json.dumps(states[0]))
        for rank in ranks:
            rank.close()


def test_what_was_built_ahead_is_not_counted_as_used(folder: Path, uninterrupted: list[list[int]]) -> None:
    source = stream(folder, workers=2)
    assert numbers(next(source)) == uninterrupted[0]
    source.close()
    assert numbers(next(source)) == uninterrupted[1]
    source.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_values_survive_the_hand_over(folder: Path, workers: int) -> None:
    """Arrays of one shape become a tensor, of several a list of tensors; anything else stays what it is. Batches that
    were handed out stay as they are while later ones are built."""
    source = stream(folder, workers=workers)
    batches = [next(source) for _ in range(10)]
    source.close()
    for batch in batches:
        assert isinstance(batch.samples["number"], torch.Tensor)
        assert batch.samples["name"] == batch.keys == [f"k{n}" for n in numbers(batch)]
        for number, image in zip(numbers(batch), batch.samples["image"], strict=True):
            assert torch.equal(image, torch.from_numpy(pixels(number)))
        batch.samples["number"] += 1  # it is the user's


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_left_out_and_named(folder: Path, tmp_path: Path, workers: int) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / f"s{SHARD_SAMPLES}.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 4  # in the first picture of the shard
    shard.write_bytes(content)
    source = stream(tmp_path, workers=workers)
    whole = stream(folder)
    bad = []
    for _ in range(5):
        batch, expected = next(source), numbers(next(whole))
        assert numbers(batch) == [n for n in expected if n != SHARD_SAMPLES] and len(batch.keys) == len(numbers(batch))
        bad += batch.bad_samples
    source.close()
    (one,) = bad
    assert (one.shard, one.key, one.offset) == (str(shard), f"k{SHARD_SAMPLES}", 512)
    assert "checksum" in one.reason


def test_a_missing_shard_stops_the_stream(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.name != "s0.tar":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    for workers in (0, 1):
        source = stream(tmp_path, workers=workers)
        with pytest.raises(FileNotFoundError, match=r"s0\.tar is in the index but missing"):
            for _ in range(5):
                next(source)
        source.close()


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="12 samples does not divide among 5 ranks"):
        stream(folder, 0, 5)
    state = stream(folder).state_dict()
    with pytest.raises(ValueError, match="not one of seed 1"):
        stream(folder, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="worker processes of its own"):
        next(iter(torch.utils.data.DataLoader(stream(folder), batch_size=None, num_workers=2)))


def test_a_worker_that_hangs_is_told(folder: Path) -> None:
    def never(key: str, fields: dict[str, bytes]) -> dict[str, object]:
        threading.Event().wait()
        return {}

    source = SampleStream(ShardReader(folder), never, SampleSettings(BATCH, workers=1, timeout_seconds=0.5))
    with pytest.raises(WorkerError, match="no worker has handed over anything for 0.5 seconds"):
        next(source)


def test_a_worker_that_fails_is_told_with_its_traceback(folder: Path) -> None:
    def wrong(key: str, fields: dict[str, bytes]) -> dict[str, object]:
        return {"image": fields["jpg"]}

    source = SampleStream(ShardReader(folder), wrong, SampleSettings(BATCH, workers=1))
    with pytest.raises(WorkerError, match=r"(?s)a worker failed:.*in wrong.*KeyError: 'jpg'"):
        next(source)


def open_file_count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_large_batches_cross_and_leave_nothing_behind(folder: Path) -> None:
    """Arrays of batches that the main process lets go of are given back; open files do not grow in number."""

    def large(key: str, fields: dict[str, bytes]) -> dict[str, object]:
        return {"ones": np.ones((1 << 22) + 1, dtype=np.uint8)}

    others = multiprocessing.active_children()
    source = SampleStream(ShardReader(folder), large, SampleSettings(BATCH, workers=2))
    open_files = []
    for _ in range(12):
        batch = next(source)
        assert batch.samples["ones"].shape == (BATCH, (1 << 22) + 1) and bool(batch.samples["ones"].all())
        del batch
        open_files.append(open_file_count())
    source.close()
    # What workers have handed over meanwhile is open too, two at most; files that stayed would be eleven.
    assert open_files[-1] <= open_files[0] + 2 and open_files[0] > open_file_count()
    assert set(multiprocessing.active_children()) <= set(others), "those of tests before may end meanwhile"
    assert "memfd:batch" not in Path("/proc/self/maps").read_text()


def test_a_killed_worker_is_told_and_nothing_is_lost(folder: Path, uninterrupted: list[list[int]]) -> None:
    source = stream(folder, workers=2)
    got = [numbers(next(source)) for _ in range(2)]
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()
    with pytest.raises(WorkerError, match="a data worker was killed by SIGKILL"):
        for _ in range(SAMPLES):
            got.append(numbers(next(source)))
    got += [numbers(next(source)) for _ in range(2)]
    source.close()
    assert got == uninterrupted[: len(got)]
