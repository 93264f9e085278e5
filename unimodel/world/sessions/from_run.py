"""Worlds of a trained run: how they begin, and how they are brought to life."""

from __future__ import annotations

import hashlib
from pathlib import Path

from data_pipelines.extras import MissingExtraError
from data_pipelines.shards.writer import file_sha256
from data_pipelines.sources import society
from unimodel.sampling.fill import FillSettings
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.rollout import require_actions, worlds_of
from unimodel.world.sessions.catalogue import make_world, require_world
from unimodel.world.sessions.living import LivingWorld
from unimodel.world.sessions.past import Birth, LivedBy
from unimodel.world.starts import Split, Starts


def create_world(loaded: LoadedRun, name: str, episode: int = 0, split: Split = "validation", seed: int = 0) -> Path:
    """A world that begins as a recorded episode did.

    Raises ValueError for a name that is taken, an episode that there is not and a run that can step no world,
    FileNotFoundError for a split that was not recorded.
    """
    worlds_of(loaded)  # says what is wrong with the run
    require_actions(loaded)
    starts = Starts(loaded, split)
    start = starts[episode]
    (frame,) = start.state.frames
    names = loaded.bundle.action_names(starts.action_names)
    ids = tuple(start.state.mission.tolist())
    agents = _agent_names(start.environment, start.state.num_agents)
    birth = Birth(frame.shape, start.mission, ids, names, episode, split, start.environment, seed, agents)
    return make_world(loaded.run, name, birth, frame, lived_by(loaded))


def revive_world(
    loaded: LoadedRun, name: str, purpose: str, *, adopt: bool = False, compiled_for: int = 0
) -> LivingWorld:
    """The world `name` of the run, which goes on. Raises what LivingWorld does."""
    folder = require_world(loaded.run, name)
    settings = FillSettings(steps=loaded.config.evaluation.sampling_steps)
    worlds = worlds_of(loaded, settings, compiled_for)
    return LivingWorld(folder, worlds, lived_by(loaded), purpose, adopt=adopt)


def lived_by(loaded: LoadedRun) -> LivedBy:
    """The model that a run's worlds are lived by."""
    return LivedBy(loaded.sha256, loaded.stage, loaded.step, _tokenizers_sha256(loaded))


def _agent_names(environment: str, num_agents: int) -> tuple[str, ...]:
    """Of several agents, as their environment calls them where it can be asked; () for one."""
    unknown = ("",) * num_agents if num_agents > 1 else ()
    if not unknown or not environment.startswith(society.PREFIX):
        return unknown
    try:
        names = society.agent_names(environment)
    except (ValueError, MissingExtraError):  # a name is all that is lost
        return unknown
    return names if len(names) == num_agents else unknown


def _tokenizers_sha256(loaded: LoadedRun) -> str:
    """Of an odometer too where this stage recalls by pose: to others, one that was added later says nothing."""
    run, memory = loaded.run, loaded.config.stages[loaded.stage].memory
    files = {path for path in run.tokenizers.rglob("*") if path.is_file()}
    if memory is None or not memory.recalls_by_pose:
        files -= {path for path in run.odometer.rglob("*") if path.is_file()}
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(run.tokenizers)} {file_sha256(file)}\n".encode())
    return digest.hexdigest()
