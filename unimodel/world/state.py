"""The past of a world, in tokens: all there is to know of it, so it can be kept, branched from and gone back to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, slots=True)
class WorldState:
    """`frames` [t, rows, columns] codes, the t - 1 actions between them, and the `mission` as text ids."""

    mission: np.ndarray
    frames: np.ndarray
    actions: np.ndarray

    def stepped(self, action: int, frame: np.ndarray) -> WorldState:
        """One frame later."""
        frames, actions = np.concatenate([self.frames, frame[None]]), np.append(self.actions, action)
        return replace(self, frames=frames, actions=actions)

    def rewound(self, frames: int) -> WorldState:
        """When it had so many frames. Raises ValueError when it never had, or for none at all."""
        if not 1 <= frames <= len(self.frames):
            raise ValueError(f"a world of {len(self.frames)} frames cannot go back to {frames} of them")
        return replace(self, frames=self.frames[:frames], actions=self.actions[: frames - 1])
