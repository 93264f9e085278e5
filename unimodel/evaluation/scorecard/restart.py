"""Does a world go on as if nothing had happened when its process ends?

A world is lived on the disk as `unimodel world` lives it, closed in the midst, opened again by other `Worlds` and lived
on; beside it one that was never on a disk, and one that begins anew with the last frame, its past forgotten.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines.sources.world import Action
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.scorecard.predictors import window_frames
from unimodel.run_folder import RunFolder
from unimodel.sampling.fill import FillSettings
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.rollout import worlds_of
from unimodel.world.sessions.catalogue import make_world
from unimodel.world.sessions.from_run import lived_by
from unimodel.world.sessions.living import LivingWorld, acts_of
from unimodel.world.sessions.past import Birth
from unimodel.world.state import WorldState

WORLDS, LEAST_TICKS, SEED = 4, 6, 0
SETTINGS = FillSettings(steps=1, temperature=1.0)
"""Frames are drawn, so that the noise has to go on as well; that does not take several passes."""


@dataclass(frozen=True, slots=True)
class Continued:
    """Frames after the restart, int64 [ticks, rows, columns]: of the world that was `restarted`, of the one that was
    `never_closed`, and of the one that was `begun_anew` from the last frame."""

    restarted: np.ndarray
    never_closed: np.ndarray
    begun_anew: np.ndarray


def restart_worlds(loaded: LoadedRun, held_out: HeldOut) -> list[Continued]:
    """Worlds that begin as held-out episodes do, with their actions, again and again; closed in the midst of their
    second window."""
    episodes = [one for one in held_out.tokens if one.num_frames > 1][:WORLDS]
    ticks = max(LEAST_TICKS, window_frames(loaded) * 3 // 2)
    found = []
    for episode in episodes:
        actions = episode.actions[np.arange(2 * ticks) % len(episode.actions)].tolist()
        whole = _unbroken(loaded, WorldState(episode.mission, episode.frames[:1], episode.actions[:0]), actions)
        known = WorldState(episode.mission, whole[ticks : ticks + 1], episode.actions[:0])
        anew = _unbroken(loaded, known, actions[ticks:])
        with tempfile.TemporaryDirectory(prefix="unimodel-restart-") as folder:
            restarted = _on_disk(loaded, Path(folder), episode, actions, ticks)
        found.append(Continued(restarted, whole[ticks + 1 :], anew[1:]))
    return found


def same_tokens(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
    """float64 [worlds]: the share of tokens that are the same."""
    return np.array([float((a == b).mean()) for a, b in zip(one, other, strict=True)])


def _unbroken(loaded: LoadedRun, state: WorldState, actions: Sequence[Action]) -> np.ndarray:
    """[1 + actions, rows, columns] frames of a world that is never closed."""
    worlds = worlds_of(loaded, SETTINGS)
    slot = worlds.open(state, SEED)
    for action in actions:
        worlds.step([slot], [action])
    return worlds.state(slot).frames


def _on_disk(
    loaded: LoadedRun, folder: Path, episode: TokenisedEpisode, actions: Sequence[Action], ticks: int
) -> np.ndarray:
    """The frames after the restart."""
    run, model = RunFolder(folder), lived_by(loaded)
    run.store_config(loaded.config)
    names = tuple(map(str, range(loaded.bundle.vocabulary.action_size)))
    shape, several = episode.frames.shape[1:], episode.actions.shape[1:]
    agents = ("",) * several[0] if several else ()
    birth = Birth((shape[0], shape[1]), "", tuple(episode.mission.tolist()), names, 0, "test", "", SEED, agents)
    place = make_world(run, "restarted", birth, episode.frames[0], model)
    frames = []
    for some in (actions[:ticks], actions[ticks:]):
        world = LivingWorld(place, worlds_of(loaded, SETTINGS), model, "evaluation")
        try:
            frames = [world.step(acts_of("", np.atleast_1d(acts).tolist()), SETTINGS.steps) for acts in some]
        finally:
            world.close()
    return np.stack(frames)
