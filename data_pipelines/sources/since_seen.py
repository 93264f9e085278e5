"""How long ago what a frame shows was last to be seen: what a memory is judged by.

All of it follows from what is recorded: the environment, its seed, what was done and where the agent stood.
"""

from __future__ import annotations

import numpy as np
from minigrid.envs.memory import MemoryEnv

from data_pipelines.sources import balls
from data_pipelines.sources.episode import Episode
from data_pipelines.sources.minigrid import Level, cue_cell
from data_pipelines.sources.revisits import revisits

MEMORY = "MiniGrid-Memory"


def steps_since_seen(episode: Episode) -> np.ndarray:
    """int64 [T + 1]: steps from when what frame t shows was last in the picture; 0 where it shows nothing that was
    there before. Above the frames that a model reads, it must be remembered.

    MiniGrid-Memory where the cue is in the picture, and at the end of an episode that somebody chose to end: since the
                    cue was, which tells the reward
    balls           where the rails are in the picture: since they last were (the balls have moved meanwhile)
    others          since the agent last had the same pose; none of an environment that tells no poses

    Raises ValueError when MiniGrid-Memory cannot be opened again.
    """
    if episode.environment.startswith(MEMORY):
        return _since_cue(episode)
    if episode.environment in balls.ENVIRONMENTS:
        return since_last(shows_rails(episode))
    since = np.zeros(len(episode.frames), dtype=np.int64)
    pairs = revisits(episode.poses, 0)
    since[pairs[:, 1]] = pairs[:, 1] - pairs[:, 0]
    return since


def shows_rails(episode: Episode) -> np.ndarray:
    """bool [T + 1]: where the rails of an episode of hidden balls are in the picture."""
    world = balls.HiddenBalls(episode.view_cells or balls.VIEW_CELLS)
    poses, which = np.unique(episode.poses, axis=0, return_inverse=True)
    sees = np.array([world.sees_rails((x, y, direction)) for x, y, direction in poses.tolist()])
    return sees[which.ravel()]


def since_last(is_shown: np.ndarray) -> np.ndarray:
    """int64 [T + 1]: where it is shown, steps since it was before; 0 where it is not or never was."""
    since = np.zeros(len(is_shown), dtype=np.int64)
    times = np.flatnonzero(is_shown)
    since[times[1:]] = np.diff(times)
    return since


def _since_cue(episode: Episode) -> np.ndarray:
    """The room stays as it is, so that poses tell what is seen."""
    level = Level(episode.environment, episode.seed, episode.frames.shape[1], episode.view_cells)
    assert isinstance(level.env, MemoryEnv)
    cue = cue_cell(level.env)
    shown = np.array([level.sees(cue, pose) for pose in episode.poses])
    level.close()
    since = since_last(shown)
    if episode.num_steps and episode.done[-1]:
        since[-1] = episode.num_steps - max(np.flatnonzero(shown[:-1]), default=0)
    return since
