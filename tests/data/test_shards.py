from __future__ import annotations

import errno
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_data import contents, flip

from data_pipelines.shards.index import INDEX_FILE, Manifest, read_manifest, write_manifest
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.table import Lengths, SampleEntry, open_table, table_path
from data_pipelines.shards.writer import write_shard

Sample = tuple[str, dict[str, bytes], Lengths]
SAMPLES: list[Sample] = [("a-1", {"x.npy": b"12345", "json": b"{}"}, {"num_frames": 3}), ("a-2", {"x.npy": b""}, {})]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=1100), min_size=1, max_size=6))
def test_members_are_where_the_index_says(tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("shard")
    samples: list[Sample] = [(f"s{i}", {"x.bin": payload}, {"n": i}) for i, payload in enumerate(payloads)]
    entry = write_shard(folder / "a.tar", samples)
    raw = (folder / "a.tar").read_bytes()
    assert entry.size_bytes == len(raw) and len(raw) % tarfile.RECORDSIZE == 0
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        for number, (member, sample) in enumerate(
            zip(tar.getmembers(), open_table(folder / "a.tar.idx", len(samples)).samples(), strict=True)
        ):
            place = sample.members["x.bin"]
            assert (member.name, member.offset_data, member.size) == (f"{sample.key}.x.bin", place.offset, place.size)
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
            assert sample.lengths == {"n": [number]}
    write_manifest(folder, Manifest((entry,), {"kind": "test"}))
    assert read_manifest(folder) == Manifest((entry,), {"kind": "test"})
    reader = ShardReader(folder)
    assert [reader.read(i) for i in range(len(reader))] == [(key, fields) for key, fields, _ in samples]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_shard(tmp_path / "a.tar", SAMPLES), write_shard(tmp_path / "b.tar", SAMPLES)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert first.sha256 == second.sha256


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (("a.b", {"x": b""}, {}), "sample key 'a.b'"),
        (("../a", {"x": b""}, {}), "sample key"),
        (("a", {"X": b""}, {}), "field name 'X'"),
        (("a", {"x..y": b""}, {}), "field name"),
        (("a", {}, {}), "no fields"),
        (("a-1", {"x": b""}, {}), "given twice"),
    ],
)
def test_names_that_readers_would_misread_are_refused(tmp_path: Path, sample: Sample, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path / "a.tar", [SAMPLES[0], sample])
    assert not contents(tmp_path)


def test_a_failing_source_leaves_the_old_shard_and_no_half_one(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", SAMPLES)
    before = contents(tmp_path)

    def interrupted() -> Iterator[Sample]:
        yield "b-1", {"x": bytes(5000)}, {}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "a.tar", interrupted())
    assert contents(tmp_path) == before


def test_a_full_disk_names_the_path_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"free some and run the same command again.*a\.tar") as caught:
        write_shard(tmp_path / "a.tar", SAMPLES)
    assert caught.value.errno == errno.ENOSPC and not contents(tmp_path)


def test_a_truncated_shard_names_shard_key_offset_and_cure(copied: Path) -> None:
    train = copied / "train"
    reader = ShardReader(train)
    shard = train / "train-000000.tar"
    sample = reader.entry(2)
    place = sample.members["rewards.npy"]
    os.truncate(shard, place.offset + 3)
    assert reader.read(1)[0] == reader.key(1)
    named = f"train-000000.*{sample.key}.*rewards.*byte {place.offset}"
    with pytest.raises(ValueError, match=f"{named}.*truncated.*data verify"):
        reader.read(2)


def test_a_changed_byte_is_refused(copied: Path) -> None:
    reader = ShardReader(copied / "train")
    place = reader.entry(5).members["frames.png"]
    flip(copied / "train/train-000001.tar", place.offset + 20)
    with pytest.raises(ValueError, match=f"{reader.key(5)}.*frames.png at byte {place.offset}.*checksum"):
        reader.read(5)


def test_a_missing_shard_is_named(copied: Path) -> None:
    (copied / "train/train-000000.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-000000\.tar is in the index but missing"):
        ShardReader(copied / "train").read(0)


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_without_data_says_how_to_make_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="unimodel data record CONFIG"):
        ShardReader(tmp_path / name)


@pytest.mark.parametrize("name", ["../train/train-000000.tar", "/etc/passwd", "..", "", "a/b.tar", ".hidden", 3])
def test_a_shard_outside_the_folder_is_never_opened(copied: Path, name: object) -> None:
    path = copied / "train" / INDEX_FILE
    index = json.loads(path.read_text())
    index["shards"]["file"][0] = name
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index\.json is malformed.*not a plain file name"):
        ShardReader(copied / "train")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"metadata": {}, "shards": {"file": []}}', '{"metadata": 1, "shards": {}}']
)
def test_a_malformed_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / INDEX_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"index\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("column", ["num_samples", "size_bytes"])
def test_negative_counts_are_refused(copied: Path, column: str) -> None:
    path = copied / "validation" / INDEX_FILE
    index = json.loads(path.read_text())
    index["shards"][column][0] = -1
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="-1"):
        read_manifest(copied / "validation")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_table_with_a_changed_byte_is_refused(recorded: Path, place: int, change: int) -> None:
    """By its hash; and even unhashed, it is refused or gives entries, never a crash."""
    train = recorded / "train"
    original = table_path(train / "train-000000.tar").read_bytes()
    damaged = bytearray(original)
    damaged[place % len(original)] ^= change
    with tempfile.TemporaryDirectory() as scratch:
        for file in ("index.json", "train-000000.tar"):
            shutil.copy(train / file, scratch)
        path = table_path(Path(scratch) / "train-000000.tar")
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"train-000000\.tar\.idx: its SHA-256"):
            ShardReader(Path(scratch)).read(0)
        try:
            entries = list(open_table(path, 4).samples())
        except (ValueError, UnicodeDecodeError, IndexError):
            return
        assert all(isinstance(entry, SampleEntry) for entry in entries)


FORKED_READER = """
import os, sys
from pathlib import Path
from data_pipelines.shards.reader import ShardReader
reader = ShardReader(Path(sys.argv[1]))
expected = reader.read(7)
child = os.fork()
if child == 0:
    os._exit(0 if reader.read(7) == expected else 1)
assert os.waitpid(child, 0)[1] == 0 and reader.read(7) == expected
"""


def test_a_reader_travels_to_other_processes(recorded: Path) -> None:
    reader = ShardReader(recorded / "train")
    expected = reader.read(7)
    assert pickle.loads(pickle.dumps(reader)).read(7) == expected
    # In a process of its own: forking one that holds OpenMP threads, as this worker may by now, is undefined.
    forked = subprocess.run([sys.executable, "-c", FORKED_READER, str(recorded / "train")], check=False)
    assert forked.returncode == 0


def test_only_so_many_shards_stay_open(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.shards.storage.MAX_OPEN_FILES", 1)
    monkeypatch.setattr("data_pipelines.shards.reader.MAX_OPEN_TABLES", 1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader = ShardReader(recorded / "train")
    keys = [reader.read(number)[0] for number in range(len(reader))]
    assert len(set(keys)) == 10
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2, "a shard and its table"
    with pytest.raises(IndexError, match=r"0\.\.9"):
        reader.read(10)
