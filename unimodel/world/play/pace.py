"""How fast a world goes, and how many refinement passes a frame may have so that it goes as fast as asked."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

ENOUGH_STEPS = 12
"""Steps to measure before the number of passes changes."""
ROOM_FRACTION = 0.8
"""More passes must be expected to take at most this share of the time that there is."""
MOST_PATIENCE_STEPS = 768
MOST_UNANSWERED = 64


class Pace:
    """Passes of the steps that a clock asks for: `most`, half of it, ... 1.

    Fewer when the 95th percentile of the step time is over the budget; more again when the time of that many passes,
    which grows with their number at most, would fit. What was tried in vain is tried again later and later.
    """

    def __init__(self, most: int, budget_seconds: float) -> None:
        self._ladder = [most]
        while self._ladder[-1] > 1:
            self._ladder.append(self._ladder[-1] // 2)
        self._at = 0
        self._budget = budget_seconds
        self._seconds: deque[float] = deque(maxlen=4 * ENOUGH_STEPS)
        self._steps = 0
        self._patience = ENOUGH_STEPS
        self._has_risen = False

    @property
    def passes(self) -> int:
        """For the next step."""
        return self._ladder[self._at]

    def note(self, passes: int, seconds: float) -> None:
        """What a step of `passes` passes took; one of another number tells nothing about now."""
        if passes != self.passes:
            return
        self._seconds.append(seconds)
        self._steps += 1
        if len(self._seconds) < ENOUGH_STEPS:
            return
        slow = percentile(self._seconds, 0.95)
        if slow > self._budget and self._at + 1 < len(self._ladder):
            if self._has_risen:
                self._patience = min(2 * self._patience, MOST_PATIENCE_STEPS)
            self._move(1)
        elif self._at > 0 and self._steps >= self._patience:
            if slow * self._ladder[self._at - 1] / self.passes < ROOM_FRACTION * self._budget:
                self._move(-1)

    def _move(self, rungs: int) -> None:
        self._at += rungs
        self._has_risen = rungs < 0
        self._seconds.clear()
        self._steps = 0


class Meter:
    """Pictures a second, and from the key to the picture.

    A picture answers a key from when the key's message arrives until the picture is acknowledged as drawn: the way of
    the acknowledgement stands for the way of the key. Times are seconds, told by the caller.
    """

    def __init__(self) -> None:
        self._shown: deque[float] = deque(maxlen=20)
        self._waits: deque[float] = deque(maxlen=100)
        self._pressed: dict[int, float] = {}
        """Frame -> when its key went down, until it is acknowledged."""

    def show(self, frame: int, now: float, pressed_at: float | None) -> None:
        """A frame is ready; `pressed_at` says when the key went down that it answers."""
        self._shown.append(now)
        if pressed_at is not None and len(self._pressed) < MOST_UNANSWERED:
            self._pressed[frame] = pressed_at

    def acknowledge(self, frame: int, now: float) -> None:
        """It is on the screen, and with it the answer to the keys of frames that were dropped before it."""
        for number in [number for number in self._pressed if number <= frame]:
            self._waits.append(now - self._pressed.pop(number))

    def clear(self) -> None:
        """What comes next has nothing to do with what came before."""
        self._shown.clear()
        self._pressed.clear()

    def per_second(self) -> float | None:
        """None before the second frame."""
        seconds = self._shown[-1] - self._shown[0] if self._shown else 0.0
        return round((len(self._shown) - 1) / seconds, 1) if seconds > 0 else None

    def wait_milliseconds(self, fraction: float) -> float | None:
        """Of the last keys, the percentile at `fraction`; None before the first."""
        return round(1000 * percentile(self._waits, fraction), 1) if self._waits else None


def percentile(values: Iterable[float], fraction: float) -> float:
    """The smallest value that `fraction` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]
