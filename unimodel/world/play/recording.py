"""What somebody has played, as shards in the form that training reads."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from data_pipelines.shards.index import Manifest, write_manifest
from data_pipelines.shards.table import Lengths
from data_pipelines.shards.writer import write_shard
from data_pipelines.sources.episode import Event
from data_pipelines.sources.trajectory import Trajectory, encode_windows
from unimodel.world.play.difference import decode_png
from unimodel.world.play.dream import Checkpoint
from unimodel.world.play.history import Moment

MOST_FRAMES = 64
"""Of an episode: a longer stretch becomes several, and neighbours share a frame."""


class Recorder:
    """Keeps what is played from its beginning on. Going back, to another branch, to another start or to another mission
    ends one stretch and begins the next: an episode is one way through one world."""

    def __init__(self, step: int) -> None:
        self._stretches: list[list[Moment]] = []
        self._begun = step

    def cut(self, path: list[Moment], step: int) -> None:
        """Ends the stretch that leads to the end of `path`; the next begins at step `step` of the path to come."""
        stretch = path[self._begun :]
        if len(stretch) > 1:
            self._stretches.append(stretch)
        self._begun = step

    def write(self, folder: Path, names: tuple[str, ...], dreamed_by: Checkpoint) -> int:
        """Writes the stretches as a data folder, which passes `unimodel data verify`; returns its frames, 0 (and writes
        nothing) when no step was taken. Raises OSError when the disk is full."""
        if not self._stretches:
            return 0
        shard = write_shard(folder / "played-000000.tar", self._samples(folder.name, len(names), dreamed_by))
        metadata = {
            "kind": "episodes",
            "num_actions": len(names),
            "action_names": list(names),
            "dreamed_by": asdict(dreamed_by),
        }
        write_manifest(folder, Manifest((shard,), metadata))
        return sum(len(stretch) for stretch in self._stretches)

    def _samples(
        self, name: str, num_actions: int, dreamed_by: Checkpoint
    ) -> Iterator[tuple[str, dict[str, bytes], Lengths]]:
        for number, stretch in enumerate(self._stretches):
            steps = len(stretch) - 1
            trajectory = Trajectory(
                key=f"played-{name}-{number:03d}",
                name=f"stretch {number}",
                actions=np.array([moment.action for moment in stretch[1:]], dtype=np.int64),
                rewards=np.full(steps, np.nan, dtype=np.float32),  # nobody knows them in a dream
                done=np.zeros(steps, dtype=np.bool_),
                missions=[stretch[1].mission],
                events=tuple(Event(step, text) for step, moment in enumerate(stretch[1:]) for text in moment.events),
                num_actions=num_actions,
                seed=0,
                about={"dreamed_by": asdict(dreamed_by)},
            )
            frames = (decode_png(moment.pictures[0]) for moment in stretch)
            for sample in encode_windows(trajectory, frames, MOST_FRAMES, None):
                yield sample.key, sample.fields, sample.lengths


def new_folder(run: Path) -> Path:
    """Where the next recording of a run goes."""
    return run / "played" / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
