"""How long ago what a frame shows was last to be seen: what a memory is judged by.

All of it follows from what is recorded: the environment, its seed, what was done and where the agent stood.
"""

from __future__ import annotations

import math

import numpy as np
from minigrid.envs.memory import MemoryEnv

from data_pipelines.sources.any_environment import Environment
from data_pipelines.sources.balls import HiddenBalls
from data_pipelines.sources.episode import Episode
from data_pipelines.sources.families import open_world
from data_pipelines.sources.minigrid import Level, cue_cell
from data_pipelines.sources.recall import RECALL, Recall
from data_pipelines.sources.walking import Pose

ROUNDED = 1000
"""Poses of a continuous world are equal to a thousandth: sums of equal steps differ in their last digits."""


def steps_since_seen(episode: Episode) -> np.ndarray:
    """int64 [T + 1]: steps from when what frame t shows was last in the picture; 0 where it shows nothing that was
    there before. Above the frames that a model reads, it must be remembered.

    recall          where the cue is shown: since it was last
    MiniGrid-Memory at the end of an episode that somebody chose to end: since the cue, which tells the reward
    balls           where the rails are in the picture: since they last were (the balls have moved meanwhile)
    others          since the agent last had the same pose; none of an environment that tells no poses

    Raises ValueError when the environment cannot be opened again.
    """
    world = open_world(episode.environment, episode.seed, episode.frames.shape[1], episode.view_cells)
    simulator = world.simulator
    try:
        if isinstance(simulator, Level) and isinstance(simulator.env, MemoryEnv):
            return _since_cue(episode, simulator, simulator.env)
        if isinstance(simulator, Environment) and isinstance(simulator.own, Recall):
            return since_last(np.concatenate([[True], episode.actions == RECALL]))
        if isinstance(simulator, Environment) and isinstance(simulator.own, HiddenBalls):
            sees = {pose: simulator.own.sees_rails(pose) for pose in map(_cell_pose, episode.poses)}
            return since_last(np.array([sees[_cell_pose(pose)] for pose in episode.poses]))
    finally:
        world.close()
    since = np.zeros(len(episode.frames), dtype=np.int64)
    pairs = revisits(episode.poses, 0)
    since[pairs[:, 1]] = pairs[:, 1] - pairs[:, 0]
    return since


def revisits(poses: np.ndarray, window: int) -> np.ndarray:
    """int64 [pairs, 2] of times (i, j): the agent has the same pose at j as at i, not in between, and j - i > window.

    `poses` [T + 1, 3 or 0], in cells or, as floats, on the ground with an angle in radians. Whether the world has
    stayed the same there, `are_unchanged` tells.
    """
    if not poses.size:
        return np.zeros((0, 2), dtype=np.int64)
    places = poses.astype(np.int64)
    if not np.array_equal(places, poses):
        angles = poses[:, 2:] % (2 * math.pi)
        places = np.rint(np.concatenate([poses[:, :2], angles], axis=1) * ROUNDED).astype(np.int64)
        places[:, 2] %= round(2 * math.pi * ROUNDED)
    last: dict[tuple[int, ...], int] = {}
    pairs = []
    for time, place in enumerate(map(tuple, places.tolist())):
        if time - last.get(place, time) > window:
            pairs.append((last[place], time))
        last[place] = time
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def are_unchanged(frames: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """bool [pairs]: whether the frames (pixels or codes, [T + 1, ...]) of both times are the same."""
    flat = frames.reshape(len(frames), -1)
    return (flat[pairs[:, 0]] == flat[pairs[:, 1]]).all(axis=1)


def since_last(is_shown: np.ndarray) -> np.ndarray:
    """int64 [T + 1]: where it is shown, steps since it was before; 0 where it is not or never was."""
    since = np.zeros(len(is_shown), dtype=np.int64)
    times = np.flatnonzero(is_shown)
    since[times[1:]] = np.diff(times)
    return since


def _since_cue(episode: Episode, level: Level, env: MemoryEnv) -> np.ndarray:
    """The room stays as it is, so that poses tell what is seen."""
    since = np.zeros(len(episode.frames), dtype=np.int64)
    if episode.num_steps and episode.done[-1]:
        shown = (t for t in range(episode.num_steps, -1, -1) if level.sees(cue_cell(env), episode.poses[t]))
        since[-1] = episode.num_steps - next(shown, episode.num_steps)
    return since


def _cell_pose(pose: np.ndarray) -> Pose:
    x, y, direction = pose.tolist()
    return x, y, direction
