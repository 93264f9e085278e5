"""All that has happened in one world: moments on branches. Nothing is lost by going back.

Acting at the end of a branch makes it longer; acting anywhere else begins a new branch there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from unimodel.world.state import WorldState


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """What one step brought.

    action    that led here; None at the start
    codes     of the next frame, one [rows, columns] for every dream
    pictures  PNGs of the panels, b"" where nothing was to be seen
    mission   of the world when it took the step
    events    what was said to happen before that
    psnr      of the dream against reality, dB
    differs   visibly
    """

    action: int | None
    codes: tuple[np.ndarray, ...]
    pictures: tuple[bytes, ...]
    mission: str
    psnr: float | None
    differs: bool
    real_note: str | None = None
    events: tuple[str, ...] = ()


@dataclass(slots=True)
class Line:
    """A branch: its moments are the steps after `fork`, which is a step of its parent (of the first one: -1)."""

    number: int
    parent: int | None
    fork: int
    moments: list[Moment] = field(default_factory=list)

    @property
    def tip(self) -> int:
        """Its last step."""
        return self.fork + len(self.moments)


class HistoryFull(ValueError):
    """No more moments, or branches, are kept."""


class History:
    """Branches, and where in them one is: step `step` of branch `branch`. Steps count from 0, the start."""

    def __init__(self, start: Moment, max_moments: int, max_branches: int) -> None:
        self.lines = [Line(0, None, -1, [start])]
        self.branch = 0
        self.step = 0
        self._max_moments, self._max_branches = max_moments, max_branches

    @property
    def line(self) -> Line:
        """The current branch."""
        return self.lines[self.branch]

    def path(self) -> list[Moment]:
        """From the start to where one is."""
        return self._whole(self.line)[: self.step + 1]

    def whole(self) -> list[Moment]:
        """From the start to the end of the current branch."""
        return self._whole(self.line)

    def here(self) -> Moment:
        """The moment where one is."""
        line = self.line
        while self.step <= line.fork:
            assert line.parent is not None
            line = self.lines[line.parent]
        return line.moments[self.step - line.fork - 1]

    def actions(self) -> list[int]:
        """From the start to where one is."""
        return [moment.action for moment in self.path() if moment.action is not None]

    def require_room(self) -> None:
        """Raises HistoryFull when the next step could not be kept."""
        if sum(len(line.moments) for line in self.lines) >= self._max_moments:
            raise HistoryFull(f"{self._max_moments:,} frames are kept and no more: start over")
        if self.step < self.line.tip:
            self._require_branch()

    def add(self, moment: Moment) -> bool:
        """The next step; whether it began a branch. Raises HistoryFull."""
        self.require_room()
        begins = self.step < self.line.tip
        if begins:
            self.fork()
        self.line.moments.append(moment)
        self.step += 1
        return begins

    def fork(self) -> None:
        """A new branch from here, which becomes the current one. Raises HistoryFull."""
        self._require_branch()
        line = self.line
        # A branch that begins at or before its parent's own first step begins in an older one.
        while line.parent is not None and self.step <= line.fork:
            line = self.lines[line.parent]
        self.lines.append(Line(len(self.lines), line.number, self.step))
        self.branch = len(self.lines) - 1

    def rewind(self, step: int) -> None:
        """To a step of the current branch. Raises ValueError when it has none such."""
        if not 0 <= step <= self.line.tip:
            raise ValueError(f"this branch has the steps 0 to {self.line.tip}, not {step}")
        self.step = step

    def switch(self, branch: int) -> None:
        """To the end of a branch. Raises ValueError when there is none such."""
        if not 0 <= branch < len(self.lines):
            raise ValueError(f"there are the branches 0 to {len(self.lines) - 1}, not {branch}")
        self.branch, self.step = branch, self.lines[branch].tip

    def differs_at(self) -> int | None:
        """The first step on the way here at which dream and reality differ visibly."""
        return next((step for step, moment in enumerate(self.path()) if moment.differs), None)

    def deeds(self) -> list[int | str]:
        """All events and actions on the way here, in order."""
        return [deed for moment in self.path()[1:] for deed in (*moment.events, moment.action) if deed is not None]

    def events(self) -> list[tuple[int, str]]:
        """On the way here, each with the step of the action before which it was to happen."""
        return [(step, text) for step, moment in enumerate(self.path()[1:]) for text in moment.events]

    def past(self, dream: int, mission: np.ndarray, events: Sequence[tuple[int, np.ndarray]]) -> WorldState:
        """The way here as a model reads it, with a mission and events in its ids."""
        frames = np.stack([moment.codes[dream] for moment in self.path()])
        return WorldState(mission, frames, np.asarray(self.actions(), dtype=np.int64), tuple(events))

    def _whole(self, line: Line) -> list[Moment]:
        if line.parent is None:
            return line.moments
        return self._whole(self.lines[line.parent])[: line.fork + 1] + line.moments

    def _require_branch(self) -> None:
        if len(self.lines) >= self._max_branches:
            raise HistoryFull(
                f"{self._max_branches} branches are kept and no more: go on at the end of one, or start over"
            )
