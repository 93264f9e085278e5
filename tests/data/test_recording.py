from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import pytest
from recorded_data import contents, small_recording

from data_pipelines.shards.reader import ShardReader
from data_pipelines.sources import minigrid
from data_pipelines.sources import recording as module
from data_pipelines.sources.episode import decode_episode
from data_pipelines.sources.recording import Recording, record_dataset


def test_two_processes_give_the_same_bytes_as_one(recorded: Path, tmp_path: Path) -> None:
    made: list[tuple[int, int]] = []
    assert record_dataset(tmp_path, small_recording(), lambda *told: made.append(told), processes=2)
    frames = sum(ShardReader(tmp_path / split).total_length("frames") for split in module.SPLIT_SEEDS)
    assert tuple(map(sum, zip(*made, strict=True))) == (16, frames)
    assert contents(tmp_path) == contents(recorded)


def test_a_complete_data_set_is_left_alone(copied: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    assert not record_dataset(copied, small_recording())
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


@pytest.mark.parametrize("damage", ["delete", "truncate", "delete and forget the index"])
def test_a_lost_shard_is_recorded_again_with_the_same_bytes(recorded: Path, copied: Path, damage: str) -> None:
    shard = copied / "train/train-000001.tar"
    if damage == "truncate":
        os.truncate(shard, 1000)
    else:
        shard.unlink()
    if damage.endswith("index"):
        (copied / "train/index.json").unlink()
    finished: list[int] = []
    assert record_dataset(copied, small_recording(), lambda episodes, _: finished.append(episodes), processes=1)
    assert sum(finished) == 16
    assert contents(copied) == contents(recorded)


def test_an_interrupted_recording_continues_after_its_finished_shards(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[int] = []
    real = minigrid.open_simulator

    def interrupted_at_the_seventh(environment: str, seed: int, image_size: int, view_cells: None) -> object:
        if len(played) == 6:
            raise KeyboardInterrupt
        played.append(seed)
        return real(environment, seed, image_size, view_cells)

    monkeypatch.setattr(minigrid, "open_simulator", interrupted_at_the_seventh)
    with pytest.raises(KeyboardInterrupt):
        record_dataset(tmp_path, small_recording(), processes=1)
    assert sorted(contents(tmp_path)) == [
        "train/.train-000000.tar.done",
        "train/train-000000.tar",
        "train/train-000000.tar.idx",
    ]
    (tmp_path / "train/.train-000001.tar.99.partial").write_bytes(b"left by kill -9")

    with pytest.raises(ValueError, match="max_steps"):
        record_dataset(tmp_path, small_recording(max_steps=7))
    counted: list[int] = []
    monkeypatch.setattr(minigrid, "open_simulator", lambda *given: counted.append(given[1]) or real(*given))
    assert record_dataset(tmp_path, small_recording(), processes=1)
    assert len(counted) == 1 + 12 + 1, "one to see if it can be played, one to tell of it; the first shard is kept"
    assert contents(tmp_path) == contents(recorded)


def test_other_settings_are_refused_by_name(copied: Path) -> None:
    with pytest.raises(ValueError, match=r"image_size \(there 64, wanted 128\).*delete the folder"):
        record_dataset(copied, small_recording(image_size=128))


def test_bad_settings_make_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        record_dataset(tmp_path / "new", small_recording(image_size=63))
    assert not (tmp_path / "new").exists()


def test_splits_share_no_seed_and_no_world(recorded: Path) -> None:
    seeds, worlds = {}, {}
    for split in module.SPLIT_SEEDS:
        reader = ShardReader(recorded / split)
        episodes = [decode_episode(*reader.read(number)) for number in range(len(reader))]
        seeds[split] = {episode.seed for episode in episodes}
        worlds[split] = {episode.frames[0].tobytes() for episode in episodes}
        assert [reader.lengths(n, "frames")[0][0] for n in range(len(reader))] == [len(e.frames) for e in episodes]
    assert {split: len(seeds[split]) for split in seeds} == {"train": 10, "validation": 4, "test": 2}
    for one, other in combinations(seeds, 2):
        assert not seeds[one] & seeds[other] and not worlds[one] & worlds[other]


def test_so_many_episodes_that_the_seeds_would_meet_are_refused() -> None:
    for split, seeds in module.SPLIT_SEEDS.items():
        small_recording(**{f"{split}_episodes": len(seeds)})
        with pytest.raises(ValueError, match=f"{split}_episodes .* overlap"):
            small_recording(**{f"{split}_episodes": len(seeds) + 1})


def test_a_full_disk_keeps_finished_shards(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, syncs = os.fsync, []

    def full_after_six(descriptor: int) -> None:
        syncs.append(descriptor)
        if len(syncs) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_after_six)
    with pytest.raises(OSError, match=r"train-000001\.tar") as caught:
        record_dataset(tmp_path, small_recording(), processes=1)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(contents(tmp_path)) == [
        "train/.train-000000.tar.done",
        "train/train-000000.tar",
        "train/train-000000.tar.idx",
    ]
    monkeypatch.undo()
    assert record_dataset(tmp_path, small_recording(), processes=1)
    assert contents(tmp_path) == contents(recorded)


SCRIPT = """
import json, signal, sys
from pathlib import Path
from data_pipelines.sources.recording import Recording, record_dataset
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    recording = Recording(**json.loads(sys.argv[2]))
    record_dataset(Path(sys.argv[1]), recording, lambda n, _: print(n, flush=True), processes=2)
"""


def start(tmp_path: Path, settings: Recording) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "data"), json.dumps(asdict(settings))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def recorders(pid: int) -> list[int]:
    """The workers alone: multiprocessing also keeps a resource tracker."""
    return [child for child in children(pid) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_ctrl_c_ends_every_process_quietly(tmp_path: Path) -> None:
    process = start(tmp_path, small_recording(train_episodes=100_000, episodes_per_shard=20))
    assert process.stdout is not None and process.stdout.readline() == "20\n"
    workers = recorders(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole group gets it
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0 and len(workers) == 2
    assert errors.count("Traceback") <= 1 and "SpawnProcess" not in errors, errors
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert not list((tmp_path / "data").rglob("*.partial"))


def test_a_killed_worker_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    process = start(tmp_path, small_recording(train_episodes=100_000, episodes_per_shard=20))
    assert process.stdout is not None and process.stdout.readline() == "20\n"
    os.kill(recorders(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=20)
    assert "worker process died (exit code -9" in errors and "run the same command again" in errors


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    process = start(tmp_path, small_recording(train_episodes=100_000, episodes_per_shard=20))
    assert process.stdout is not None and process.stdout.readline() == "20\n"
    workers = recorders(process.pid)
    process.kill()
    process.communicate(timeout=20)
    deadline = time.monotonic() + 10
    while any(_alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2 and not any(_alive(worker) for worker in workers)


def _alive(pid: int) -> bool:
    """A zombie waiting for whoever adopted it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
