"""The past of a world, in tokens: all there is to know of it, so it can be kept, branched from and gone back to.

A state never changes, and yet a step does not copy the past: frames and actions lie at the beginning of arrays that are
longer than they are, and the newest state of a world takes the next place there. A state from which another has gone
on already copies once and has arrays of its own from then on.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np

from data_pipelines.sources.world import Action


class _Room:
    """Arrays with places to spare: `frames` [capacity, rows, columns], of which `taken` are some state's, and the
    `actions` [capacity(, agents)] between them."""

    __slots__ = ("_lock", "actions", "frames", "taken")

    def __init__(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Of twice as many places as these take, so that each frame is copied about once in the life of a world."""
        self.taken, self._lock = len(frames), Lock()
        self.frames, self.actions = (
            np.empty((2 * self.taken, *part.shape[1:]), dtype=part.dtype) for part in (frames, actions)
        )
        self.frames[: len(frames)], self.actions[: len(actions)] = frames, actions

    def holds(self, frames: np.ndarray, actions: np.ndarray) -> bool:
        """Whether these are what lies at the beginning."""
        mine = zip((frames, actions), (self.frames, self.actions), strict=True)
        return all(part.base is whole and part.ctypes.data == whole.ctypes.data for part, whole in mine)

    def can_hold(self, taken: np.ndarray, frame: np.ndarray) -> bool:
        """Without changing what they say."""
        pairs = ((taken, self.actions), (frame, self.frames))
        return all(np.result_type(new, whole) == whole.dtype for new, whole in pairs)

    def take(self, place: int) -> bool:
        """Whether the place of a frame was free, which nobody else gets then."""
        with self._lock:
            if place != self.taken or place >= len(self.frames):
                return False
            self.taken += 1
            return True


@dataclass(frozen=True, slots=True)
class WorldState:
    """`frames` [t, rows, columns] codes, the t - 1 actions between them (of several agents [t - 1, agents],
    UNKNOWN_ACTION of one that was not there), the `mission` as text ids, and `events`: step and text ids of what
    happens before the action of that step, in order; those of steps to come may be there."""

    mission: np.ndarray
    frames: np.ndarray
    actions: np.ndarray
    events: tuple[tuple[int, np.ndarray], ...] = ()
    _room: _Room | None = field(default=None, repr=False, compare=False)

    def with_event(self, ids: np.ndarray) -> WorldState:
        """Something happens before the next action, after all else that does."""
        step = len(self.actions)
        at = bisect_right(self.events, step, key=_step_of)
        return replace(self, events=(*self.events[:at], (step, ids), *self.events[at:]))

    def since(self, first: int) -> WorldState:
        """Without what was before frame `first`. It goes on in arrays of its own, at the cost of what is left."""
        later = self.events[bisect_left(self.events, first, key=_step_of) :]
        events = tuple((step - first, ids) for step, ids in later)
        return WorldState(self.mission, self.frames[first:], self.actions[first:], events)

    @property
    def num_agents(self) -> int:
        """Who acts in every step."""
        return self.actions.shape[1] if self.actions.ndim == 2 else 1

    def stepped(self, action: Action, frame: np.ndarray) -> WorldState:
        """One frame later, at a cost that does not grow with the past. Raises ValueError when it is not an action of
        each agent."""
        taken = np.asarray(action, dtype=np.int64)[None]
        if taken.shape[1:] != self.actions.shape[1:]:
            raise ValueError(f"this world takes an action of each of {self.num_agents} agents in a step, not {action}")
        now, room = len(self.frames), self._room
        if room is None or not (room.holds(self.frames, self.actions) and room.can_hold(taken, frame)):
            room = None
        if room is None or not room.take(now):
            dtypes = np.result_type(self.frames, frame), np.result_type(self.actions, taken)
            room = _Room(self.frames.astype(dtypes[0], copy=False), self.actions.astype(dtypes[1], copy=False))
            room.take(now)
        room.frames[now], room.actions[now - 1] = frame, taken[0]
        return replace(self, frames=room.frames[: now + 1], actions=room.actions[:now], _room=room)

    def recent(self, frames: int) -> WorldState:
        """What somebody knows who remembers so many frames."""
        return self.since(max(0, len(self.frames) - frames))

    def rewound(self, frames: int) -> WorldState:
        """When it had so many frames. Raises ValueError when it never had, or for none at all."""
        if not 1 <= frames <= len(self.frames):
            raise ValueError(f"a world of {len(self.frames)} frames cannot go back to {frames} of them")
        events = tuple(event for event in self.events if event[0] < frames - 1)
        return replace(self, frames=self.frames[:frames], actions=self.actions[: frames - 1], events=events)


def _step_of(event: tuple[int, np.ndarray]) -> int:
    return event[0]
