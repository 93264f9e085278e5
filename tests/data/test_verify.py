from __future__ import annotations

import io
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recorded_data import flip

from data_pipelines.shards.index import Manifest, write_manifest
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.stats import dataset_stats
from data_pipelines.shards.table import open_table
from data_pipelines.shards.verify import verify_dataset
from data_pipelines.shards.writer import write_shard
from data_pipelines.sources.episode import decode_episode

BLOCK = 512


def test_a_sound_data_set_has_no_problems(recorded: Path) -> None:
    report = verify_dataset(recorded)
    assert report.ok, report.problems
    assert (report.splits, report.num_shards, report.num_samples) == (("test", "train", "validation"), 5, 16)
    assert report.num_bytes == sum(path.stat().st_size for path in recorded.rglob("*.tar"))
    assert verify_dataset(recorded / "train").num_samples == 10


def places(folder: Path) -> list[tuple[str, str, int, int]]:
    """(key, field, offset, size) of the first training shard."""
    table = open_table(folder / "train/train-000000.tar.idx", 4)
    return [(s.key, f, m.offset, m.size) for s in table.samples() for f, m in s.members.items()]


@pytest.mark.parametrize("part", ["payload", "header", "padding"])
def test_a_flipped_byte_anywhere_names_its_sample_and_field(copied: Path, part: str) -> None:
    shard = copied / "train/train-000000.tar"
    chooser = random.Random(part)
    for key, field, offset, size in chooser.sample(places(copied), 6):
        start, length = {
            "payload": (offset, size),
            "header": (offset - BLOCK, BLOCK),
            "padding": (offset + size, -size % BLOCK),
        }[part]
        if length:
            at = start + chooser.randrange(length)
            flip(shard, at)
            (problem,) = verify_dataset(copied).problems
            assert (problem.shard, problem.key, problem.field) == (str(shard), key, field)
            assert start <= problem.offset <= at
            assert key in str(problem) and field in str(problem) and "train-000000.tar" in str(problem)
            flip(shard, at)
    assert verify_dataset(copied).ok


def test_a_flipped_byte_after_the_last_member_names_the_last_sample(copied: Path) -> None:
    shard = copied / "train/train-000000.tar"
    at = shard.stat().st_size - 7
    flip(shard, at)
    (problem,) = verify_dataset(copied).problems
    assert (problem.key, problem.offset) == (places(copied)[-1][0], at)


def test_a_truncated_tar_names_the_first_lost_sample(copied: Path) -> None:
    key, field, offset, _ = places(copied)[9]
    os.truncate(copied / "train/train-000000.tar", offset + 1)
    (problem,) = verify_dataset(copied).problems
    assert (problem.key, problem.field, problem.offset) == (key, field, offset + 1)
    assert "cut" in problem.what and "3 samples are lost" in problem.what


def test_missing_longer_and_foreign_shards_are_found(copied: Path) -> None:
    (copied / "train/train-000000.tar").unlink()
    with (copied / "train/train-000001.tar").open("ab") as file:
        file.write(b"x")
    (copied / "validation/other.tar").write_bytes(b"")
    problems = [str(problem) for problem in verify_dataset(copied).problems]
    assert len(problems) == 3
    assert "train-000000.tar: the file is missing" in problems[0]
    assert "train-000001.tar" in problems[1] and "1 bytes too many" in problems[1]
    assert "other.tar: this file is not in the index" in problems[2]


def test_an_episode_with_a_one_byte_picture_is_named(copied: Path) -> None:
    reader = ShardReader(copied / "validation")
    samples = [(*reader.read(number), {}) for number in range(len(reader))]
    samples[2][1]["frames.png"] = b"\x89"
    shard = write_shard(copied / "validation/validation-000000.tar", samples)
    write_manifest(copied / "validation", Manifest((shard,), reader.metadata))
    (problem,) = verify_dataset(copied).problems
    assert problem.key == samples[2][0] and "field frames.png: not a readable picture" in problem.what


def test_a_key_used_in_both_splits_is_found(copied: Path) -> None:
    reader = ShardReader(copied / "train")
    entry = write_shard(copied / "validation/validation-000000.tar", [(*reader.read(0), {})])
    write_manifest(copied / "validation", Manifest((entry,), {}))
    assert {problem.key for problem in verify_dataset(copied).problems} == {reader.key(0)}


def test_no_data_says_how_to_make_it(tmp_path: Path) -> None:
    for check in (verify_dataset, dataset_stats):
        with pytest.raises(FileNotFoundError, match="unimodel data record CONFIG"):
            check(tmp_path)


def test_statistics_count_what_was_recorded(recorded: Path) -> None:
    stats = dataset_stats(recorded)
    reader = ShardReader(recorded / "train")
    episodes = [decode_episode(*reader.read(number)) for number in range(len(reader))]
    train = stats["train"]
    assert (train["samples"], train["shards"]) == (10, 3)
    assert train["frames"] == sum(len(e.frames) for e in episodes) == train["steps"] + 10
    assert train["actions"]["forward"] == sum(int((e.actions == 2).sum()) for e in episodes)
    assert sum(train["actions"].values()) == train["steps"]
    assert train["success_rate"] == np.mean([bool(e.done.any()) for e in episodes])
    assert train["missions"] == len({e.mission for e in episodes})
    assert train["steps_per_episode"]["max"] == 6
    json.dumps(stats)


def picture(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(-1, *frames.shape[2:])


def test_stock_webdataset_reads_and_decodes_every_field(recorded: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    reader = ShardReader(recorded / "train")
    urls = [str(path) for path in sorted((recorded / "train").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [entry.key for entry in reader.entries()]
    for number, sample in enumerate(samples):
        episode = decode_episode(*reader.read(number))
        assert np.array_equal(sample["frames.png"], picture(episode.frames))
        for name in ("actions", "rewards", "done", "poses"):
            assert np.array_equal(sample[f"{name}.npy"], getattr(episode, name))
        assert sample["json"]["mission"] == episode.mission and sample["json"]["captions"] == list(episode.captions)


def test_stock_datasets_reads_the_same_frames(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    files = [str(path) for path in sorted((recorded / "train").glob("*.tar"))]
    rows = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path))
    reader = ShardReader(recorded / "train")
    assert len(rows) == len(reader)
    for number, row in enumerate(rows):
        episode = decode_episode(*reader.read(number))
        assert row["__key__"] == episode.key and row["json"]["seed"] == episode.seed
        assert np.array_equal(np.asarray(row["frames.png"]), picture(episode.frames))
        assert np.array_equal(row["actions.npy"], episode.actions)


def test_any_tool_can_open_the_strip(recorded: Path) -> None:
    _, fields = ShardReader(recorded / "train").read(0)
    with Image.open(io.BytesIO(fields["frames.png"])) as image:
        assert (image.format, image.mode, image.width) == ("PNG", "RGB", 64)


def test_a_built_sample_that_does_not_decode_is_named_though_every_checksum_is_right(tmp_path: Path) -> None:
    rows = [("fine", {"txt": b"words"}, {}), ("broken", {"png": b"x", "txt": b"one byte"}, {})]
    shard = write_shard(tmp_path / "train-000000.tar", rows)
    write_manifest(tmp_path, Manifest((shard,), {"kind": "samples"}))
    (problem,) = verify_dataset(tmp_path).problems
    assert problem.key == "broken" and "field png: not a readable picture" in problem.what
