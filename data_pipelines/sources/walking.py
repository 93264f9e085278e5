"""Ways through a grid of cells, from pose to pose (x, y, direction): turning left, turning right, going forward."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np

from data_pipelines.sources.play import Play

Pose = tuple[int, int, int]
TURN_LEFT, TURN_RIGHT, FORWARD = MOVES = range(3)
"""Actions of MiniGrid, and of every grid that scripts walk in."""
RIGHT, DOWN, LEFT, UP = range(4)
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def after(pose: Sequence[float], action: int) -> Pose:
    """Where an action leads when nothing is in the way."""
    x, y, direction = map(int, pose)
    if action == FORWARD:
        dx, dy = STEPS[direction]
        return x + dx, y + dy, direction
    return x, y, (direction + (1 if action == TURN_RIGHT else -1)) % 4


def poses_of(cells: np.ndarray) -> set[Pose]:
    """Every pose on the True ones of `cells`, bool [height, width]."""
    return {(int(x), int(y), direction) for y, x in np.argwhere(cells) for direction in range(4)}


def distances(start: tuple[int, int], cells: np.ndarray) -> dict[tuple[int, int], int]:
    """How many cells it is from `start` (x, y) to each that can be reached over the True ones of `cells`."""
    found = {start: 0}
    waiting = deque([start])
    while waiting:
        x, y = waiting.popleft()
        for dx, dy in STEPS:
            near = x + dx, y + dy
            if near not in found and cells[near[1], near[0]]:
                found[near] = found[x, y] + 1
                waiting.append(near)
    return found


def leading_to(goals: Set[Pose], through: Set[Pose]) -> set[Pose]:
    """The poses of `through` from which one of `goals` can be reached without leaving `through`."""
    found = set(goals & through)
    waiting = deque(found)
    while waiting:
        x, y, direction = waiting.popleft()
        dx, dy = STEPS[direction]
        before = ((x - dx, y - dy, direction), (x, y, (direction + 1) % 4), (x, y, (direction - 1) % 4))
        for pose in before:
            if pose in through and pose not in found:
                found.add(pose)
                waiting.append(pose)
    return found


def way(start: Pose, goals: Set[Pose], through: Set[Pose], rng: np.random.Generator) -> list[int]:
    """Actions of a shortest way to one of `goals`, over poses of `through` only; which of several is drawn.

    Raises ValueError when there is none.
    """
    order: list[int] = rng.permutation(MOVES).tolist()
    came: dict[Pose, tuple[Pose, int] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        pose = waiting.popleft()
        if pose in goals:
            return _retraced(pose, came)
        for action in order:
            reached = after(pose, action)
            if reached not in came and reached in through:
                came[reached] = pose, action
                waiting.append(reached)
    raise ValueError(f"there is no way from {start} to where the script wants to go")


def walk(play: Play, goals: Set[Pose], through: Set[Pose]) -> Iterator[int]:
    """Goes a shortest way to one of `goals`, and looks for another when something has come in between."""
    while (pose := pose_of(play)) not in goals:
        for action in way(pose, goals, through, play.rng):
            pose = after(pose, action)
            yield action
            if pose_of(play) != pose:
                break


def wander(play: Play, through: Set[Pose], forward_fraction: float) -> int:
    """Forward in so many of the steps in which that stays in `through`, else a turn that does."""
    pose = pose_of(play)
    chance, turns = play.rng.random(), play.rng.permutation((TURN_LEFT, TURN_RIGHT)).tolist()
    goes_on = after(pose, FORWARD) in through
    if goes_on and chance < forward_fraction:
        return FORWARD
    return next((turn for turn in turns if after(pose, turn) in through), FORWARD if goes_on else turns[0])


def pose_of(play: Play) -> Pose:
    """Where the agent is now. Raises ValueError when the world does not tell, in whole cells."""
    pose = play.world.moment.pose
    if len(pose) != 3 or not all(isinstance(number, int) for number in pose):
        raise ValueError(f"{play.world.environment} does not tell in which cell its agent stands, as this policy needs")
    return int(pose[0]), int(pose[1]), int(pose[2])


def _retraced(pose: Pose, came: Mapping[Pose, tuple[Pose, int] | None]) -> list[int]:
    actions = []
    while (step := came[pose]) is not None:
        pose, action = step
        actions.append(action)
    return actions[::-1]
