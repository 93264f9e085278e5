"""Records a data set of episodes: shards of every split, on all cores, continued where it was interrupted.

Every shard is one task, written whole or not at all, with its manifest entry beside it; a split's manifest comes last.
Shard n holds the episodes of fixed seeds, so neither the number of processes nor an interruption changes a byte.
One recording at a time may write into a folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.shards.atomic import remove_partials
from data_pipelines.shards.index import INDEX_FILE, read_manifest
from data_pipelines.shards.table import Lengths, open_table, table_path
from data_pipelines.shards.unfinished import (
    finish_folder,
    is_complete,
    missing_shards,
    publish_sidecar,
    read_sidecars,
)
from data_pipelines.shards.writer import write_shard
from data_pipelines.sources.episode import encode_episode
from data_pipelines.sources.families import family_of, open_world
from data_pipelines.sources.play import Play, Rules, play_episodes
from data_pipelines.sources.policies import LoadPolicy, OneByOne, check_policies, load_players, scripted_policy
from data_pipelines.sources.processes import run_tasks

SEEDS_PER_RUN = 10_000_000
SPLIT_SEEDS = {
    "train": range(5_000_000),
    "validation": range(5_000_000, 7_500_000),
    "test": range(7_500_000, SEEDS_PER_RUN),
}
"""Environment seeds of a run with seed s, less s * 10 million: no two splits and no two runs share an episode."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What is recorded; the same values give the same bytes. `policies` are settings as `policies.py` has them, each a
    plain object with its `kind` and `share`."""

    seed: int
    environment: str
    train_episodes: int
    validation_episodes: int
    test_episodes: int
    max_steps: int
    policies: Sequence[Mapping[str, Any]]
    image_size: int
    episodes_per_shard: int
    event_fraction: float = 0.0
    view_cells: int | None = None

    def __post_init__(self) -> None:
        for split, episodes in self.splits.items():
            if episodes > len(SPLIT_SEEDS[split]):
                raise ValueError(
                    f"{split}_episodes ({episodes}) must be at most {len(SPLIT_SEEDS[split])}: "
                    "the seeds of two splits would overlap"
                )

    @property
    def splits(self) -> dict[str, int]:
        """Episodes of every split."""
        return {"train": self.train_episodes, "validation": self.validation_episodes, "test": self.test_episodes}


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to record: the episodes of `num_episodes` consecutive seeds."""

    path: Path
    first_seed: int
    num_episodes: int
    recording: Recording
    load_policy: LoadPolicy


def record_dataset(
    folder: Path,
    recording: Recording,
    progress: Callable[[int, int], None] | None = None,
    processes: int | None = None,
    load_policy: LoadPolicy = scripted_policy,
) -> bool:
    """Records `folder`/SPLIT of every split; False, without any work, when they are complete already.

    `progress(episodes, frames)` is told of finished episodes and of frames made, shard by shard; of episodes kept from
    an interruption first.
    `processes` is the number of worker processes, by default one per usable core. `load_policy` makes the policies.
    Raises ValueError when the folder holds a recording of other settings or the settings cannot be recorded, OSError
    naming the path when the disk is full, RuntimeError when a worker process was killed. Finished shards stay.
    """
    for split in recording.splits:
        _check_settings(folder / split, recording)
    if all(is_complete(folder / split) for split in recording.splits):
        return False
    _check_playable(recording, load_policy)
    for split in recording.splits:
        (folder / split).mkdir(parents=True, exist_ok=True)
    report = progress or _ignore
    tasks = {split: shard_tasks(folder / split, recording, split, load_policy) for split in recording.splits}
    missing = [task for split in tasks for task in _missing(folder / split, tasks[split])]
    kept = sum(recording.splits.values()) - sum(task.num_episodes for task in missing)
    if kept:
        report(kept, 0)
    try:
        run_tasks(record_shard, missing, processes or len(os.sched_getaffinity(0)), lambda made: report(*made))
    finally:
        for split in tasks:
            remove_partials(folder / split)
    about = _metadata(recording)
    for split, split_tasks in tasks.items():
        finish_folder(folder / split, [task.path for task in split_tasks], about)
    return True


def shard_tasks(
    folder: Path, recording: Recording, split: str, load_policy: LoadPolicy = scripted_policy
) -> list[ShardTask]:
    """Every shard of a split, in order."""
    first = recording.seed * SEEDS_PER_RUN + SPLIT_SEEDS[split].start
    size, episodes = recording.episodes_per_shard, recording.splits[split]
    starts = range(0, episodes, size)
    paths = [folder / f"{split}-{number:06d}.tar" for number in range(len(starts))]
    return [
        ShardTask(path, first + start, min(size, episodes - start), recording, load_policy)
        for path, start in zip(paths, starts, strict=True)
    ]


def record_shard(task: ShardTask) -> tuple[int, int]:
    """Records one shard, then its sidecar; returns its numbers of episodes and frames."""
    shard = write_shard(task.path, _samples(task))
    entry = {"recording": asdict(task.recording), "shard": asdict(shard)}
    publish_sidecar(task.path, entry)
    return task.num_episodes, open_table(table_path(task.path), task.num_episodes).total("frames")


def _samples(task: ShardTask) -> Iterator[tuple[str, dict[str, bytes], Lengths]]:
    recording = task.recording
    episodes = play_episodes(
        recording.environment,
        range(task.first_seed, task.first_seed + task.num_episodes),
        load_players(recording.policies, task.load_policy),
        Rules(recording.max_steps, recording.image_size, recording.event_fraction, recording.view_cells),
    )
    for episode in episodes:
        yield episode.key, encode_episode(episode), {"frames": len(episode.frames)}


def _check_playable(recording: Recording, load_policy: LoadPolicy) -> None:
    """Refuses bad settings before any process starts."""
    players = load_players(recording.policies, load_policy)
    world = open_world(recording.environment, 0, recording.image_size, recording.view_cells)
    check_policies(recording.policies, world)
    if recording.event_fraction and not world.simulator.has_events:
        raise ValueError(
            f"nothing happens in {recording.environment} because a text says so: set event_fraction to 0 (it is "
            f"{recording.event_fraction})"
        )
    for player in players:
        if isinstance(player.policy, OneByOne):  # a script knows whether a world is one of its own
            player.policy([Play(world, np.random.default_rng(0), [world.moment])])
    world.close()


def _ignore(episodes: int, frames: int) -> None:
    del episodes, frames


def _metadata(recording: Recording) -> dict[str, Any]:
    names = list(family_of(recording.environment).action_names(recording.environment))
    world = open_world(recording.environment, 0, recording.image_size, recording.view_cells)
    several = {"num_agents": world.num_agents} if world.num_agents > 1 else {}
    world.close()
    about = {"kind": "episodes", "recording": asdict(recording), "num_actions": len(names), "action_names": names}
    return about | several


def _check_settings(folder: Path, recording: Recording) -> None:
    """Raises ValueError when `folder` holds a recording, finished or interrupted, of other settings."""
    wanted = json.loads(json.dumps(asdict(recording)))
    found = [entry["recording"] for entry in read_sidecars(folder).values()]
    if (folder / INDEX_FILE).exists():
        found.append(read_manifest(folder).metadata.get("recording", {}))
    for there in found:
        differing = [
            f"{name} (there {there.get(name)!r}, wanted {value!r})"
            for name, value in wanted.items()
            if there.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"{folder} holds a recording with other settings: {', '.join(differing)}. "
                "Choose another data.folder, restore the settings, or delete the folder to record again"
            )


def _missing(folder: Path, tasks: list[ShardTask]) -> list[ShardTask]:
    """The tasks whose shard is absent or is not, byte for byte, what its entry says."""
    missing = set(missing_shards(folder, [task.path for task in tasks]))
    return [task for task in tasks if task.path in missing]
