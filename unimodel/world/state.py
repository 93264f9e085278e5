"""The past of a world, in tokens: all there is to know of it, so it can be kept, branched from and gone back to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from data_pipelines.sources.world import Action


@dataclass(frozen=True, slots=True)
class WorldState:
    """`frames` [t, rows, columns] codes, the t - 1 actions between them (of several agents [t - 1, agents],
    UNKNOWN_ACTION of one that was not there), the `mission` as text ids, and `events`: step and text ids of what
    happens before the action of that step, in order; those of steps to come may be there."""

    mission: np.ndarray
    frames: np.ndarray
    actions: np.ndarray
    events: tuple[tuple[int, np.ndarray], ...] = ()

    def with_event(self, ids: np.ndarray) -> WorldState:
        """Something happens before the next action."""
        return replace(self, events=(*self.events, (len(self.actions), ids)))

    def since(self, first: int) -> WorldState:
        """Without what was before frame `first`."""
        events = tuple((step - first, ids) for step, ids in self.events if step >= first)
        return replace(self, frames=self.frames[first:], actions=self.actions[first:], events=events)

    @property
    def num_agents(self) -> int:
        """Who acts in every step."""
        return self.actions.shape[1] if self.actions.ndim == 2 else 1

    def stepped(self, action: Action, frame: np.ndarray) -> WorldState:
        """One frame later. Raises ValueError when it is not an action of each agent."""
        taken = np.asarray(action, dtype=np.int64)[None]
        if taken.shape[1:] != self.actions.shape[1:]:
            raise ValueError(f"this world takes an action of each of {self.num_agents} agents in a step, not {action}")
        frames, actions = np.concatenate([self.frames, frame[None]]), np.concatenate([self.actions, taken])
        return replace(self, frames=frames, actions=actions)

    def recent(self, frames: int) -> WorldState:
        """What somebody knows who remembers so many frames."""
        return self.since(max(0, len(self.frames) - frames))

    def rewound(self, frames: int) -> WorldState:
        """When it had so many frames. Raises ValueError when it never had, or for none at all."""
        if not 1 <= frames <= len(self.frames):
            raise ValueError(f"a world of {len(self.frames)} frames cannot go back to {frames} of them")
        events = tuple(event for event in self.events if event[0] < frames - 1)
        return replace(self, frames=self.frames[:frames], actions=self.actions[: frames - 1], events=events)
