"""Worlds on disk as their logs tell them, and the server that a command has started."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

import numpy as np

from unimodel.run_folder import RunFolder
from unimodel.sampling.fill import FillSettings
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.rollout import worlds_of
from unimodel.world.sessions.catalogue import read_world
from unimodel.world.sessions.past import Past, action_of

ADDRESS = re.compile(r"open (http://127\.0\.0\.1:(\d+)/#([A-Za-z0-9_-]{20,}))")


@dataclass(frozen=True)
class Announced:
    """What `unimodel play` says first: where to open it; and all that it `printed` until then."""

    url: str
    port: int
    token: str
    printed: str


def announced(process: subprocess.Popen[str]) -> Announced:
    """Once it says so."""
    assert process.stdout is not None
    printed = ""
    while (match := ADDRESS.search(printed)) is None:
        line = process.stdout.readline()
        assert line, f"it ended: {printed} {process.communicate()}"
        printed += line
    return Announced(match[1], int(match[2]), match[3], printed)


def past_of(run: RunFolder, name: str) -> Past:
    """Of the world `name`, whose log must be whole."""
    folder, read = read_world(run, name)
    return Past.of(read.require_whole(folder))


def lived_again(loaded: LoadedRun, past: Past) -> np.ndarray:
    """The frames of a world that was never on a disk and takes what the log tells."""
    worlds = worlds_of(loaded, FillSettings(steps=loaded.config.evaluation.sampling_steps))
    slot = worlds.open(past.state(0), past.birth.seed)
    for tick in past.ticks:
        worlds.step([slot], [action_of(tick)], tick.passes)
    return worlds.state(slot).frames
