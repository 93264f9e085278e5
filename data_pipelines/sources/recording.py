"""Records a data set of episodes: train and validation shards, on all cores, continued where it was interrupted.

Every shard is one task, written whole or not at all, with its index entry beside it; the folder's index is written
last. Shard n holds the episodes of fixed seeds, so neither the number of processes nor an interruption changes a byte.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipelines.shards.index import (
    INDEX_FILE,
    ShardEntry,
    ShardIndex,
    publish,
    read_index,
    shard_from_json,
    shard_to_json,
    write_index,
)
from data_pipelines.shards.writer import write_shard
from data_pipelines.sources.episode import encode_episode
from data_pipelines.sources.minigrid import action_names, make_environment, record_episode

SEEDS_PER_RUN = 10_000_000
VALIDATION_OFFSET = 5_000_000
"""Seed s of a run records training episodes from s * 10 million on and validation episodes 5 million later."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What is recorded; the same values give the same bytes."""

    seed: int
    environment: str
    train_episodes: int
    validation_episodes: int
    max_steps: int
    random_action_fraction: float
    image_size: int
    episodes_per_shard: int


@dataclass(frozen=True, slots=True)
class _ShardTask:
    path: Path
    first_seed: int
    num_episodes: int
    recording: Recording


def record_dataset(
    folder: Path, recording: Recording, progress: Callable[[int], None], processes: int | None = None
) -> bool:
    """Records `folder`/train and `folder`/validation; False when they were complete already.

    `progress(episodes)` is called as shards finish. Raises ValueError when the folder holds a recording of other
    settings, OSError when the disk is full.
    """
    splits = {"train": recording.train_episodes, "validation": recording.validation_episodes}
    unfinished = [split for split in splits if not _is_recorded(folder / split, recording)]
    if not unfinished:
        return False
    make_environment(recording.environment, recording.image_size).close()  # refuse bad settings before any process starts
    metadata = _metadata(recording)
    tasks = {split: _tasks(folder / split, recording, split, splits[split]) for split in unfinished}
    everything = [task for split_tasks in tasks.values() for task in split_tasks]
    context = multiprocessing.get_context("spawn")
    workers = min(processes or os.cpu_count() or 1, len(everything))
    with context.Pool(workers, initializer=_ignore_interrupt) as pool:
        for episodes in pool.imap_unordered(_record_shard, everything):
            progress(episodes)
    for split, split_tasks in tasks.items():
        shards = tuple(_finished(task) for task in split_tasks)
        assert all(shard is not None for shard in shards)
        write_index(folder / split, ShardIndex(shards, metadata))  # pyright: ignore[reportArgumentType]
        for task in split_tasks:
            _sidecar(task).unlink()
    return True


def _metadata(recording: Recording) -> dict[str, Any]:
    names = list(action_names(recording.environment))
    return {"kind": "episodes", "recording": asdict(recording), "num_actions": len(names), "action_names": names}


def _is_recorded(folder: Path, recording: Recording) -> bool:
    """Raises ValueError when `folder` holds another recording."""
    if not (folder / INDEX_FILE).exists():
        return False
    found = read_index(folder).metadata.get("recording", {})
    wanted = asdict(recording)
    differing = [f"{key} (there {found.get(key)!r}, wanted {value!r})" for key, value in wanted.items() if found.get(key) != value]
    if differing:
        raise ValueError(
            f"{folder} holds a recording with other settings: {', '.join(differing)}. "
            "Choose another data.folder, restore the settings, or delete the folder to record again"
        )
    return True


def _tasks(folder: Path, recording: Recording, split: str, episodes: int) -> list[_ShardTask]:
    first = recording.seed * SEEDS_PER_RUN + (VALIDATION_OFFSET if split == "validation" else 0)
    size = recording.episodes_per_shard
    return [
        _ShardTask(folder / f"{split}-{number:06d}.tar", first + start, min(size, episodes - start), recording)
        for number, start in enumerate(range(0, episodes, size))
    ]


def _record_shard(task: _ShardTask) -> int:
    if _finished(task) is None:
        shard = write_shard(task.path, _samples(task))
        entry = {"recording": asdict(task.recording), "shard": shard_to_json(shard)}
        publish(_sidecar(task), json.dumps(entry).encode())
    return task.num_episodes


def _samples(task: _ShardTask) -> Iterator[tuple[str, dict[str, bytes], dict[str, int]]]:
    recording = task.recording
    for seed in range(task.first_seed, task.first_seed + task.num_episodes):
        episode = record_episode(
            recording.environment,
            seed,
            max_steps=recording.max_steps,
            random_action_fraction=recording.random_action_fraction,
            image_size=recording.image_size,
        )
        yield episode.key, encode_episode(episode), {"num_frames": len(episode.frames)}


def _sidecar(task: _ShardTask) -> Path:
    """Where a finished shard keeps its index entry until the whole split is done."""
    return task.path.with_name(f".{task.path.name}.done")


def _finished(task: _ShardTask) -> ShardEntry | None:
    """The entry of a shard that an earlier, interrupted recording of the same settings completed."""
    if not task.path.exists() or not _sidecar(task).exists():
        return None
    entry = json.loads(_sidecar(task).read_text(encoding="utf-8"))
    return shard_from_json(entry["shard"]) if entry["recording"] == asdict(task.recording) else None


def _ignore_interrupt() -> None:
    """Ctrl-C is the parent's to answer: it ends the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
