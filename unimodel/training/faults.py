"""Steps that must not count: a loss that is not finite, or one far off the last ones.

Such a step is skipped: its data is consumed, no weight moves, its samples are listed. After several in a row the run
goes back to its last checkpoint and on with the data that comes next.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable

from unimodel.config import FaultConfig

NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
LEAST_SPREAD = 0.01
"""Of losses that hardly vary, as a part of their median."""


class LossWatch:
    """What the next loss may be, told from the last ones of the stage (robust z-score: median and median absolute
    deviation, which outliers do not move; Iglewicz and Hoaglin 1993)."""

    def __init__(self, settings: FaultConfig, losses: Iterable[float]) -> None:
        self._settings = settings
        self._losses = deque(losses, settings.spike_window_steps)

    def add(self, loss: float) -> None:
        """A step that counted."""
        self._losses.append(loss)

    @property
    def limit(self) -> float:
        """Losses above it are a spike; infinite until the window is full."""
        if self._settings.spike_score is None or len(self._losses) < self._settings.spike_window_steps:
            return math.inf
        middle = statistics.median(self._losses)
        spread = NORMAL_MAD * statistics.median(abs(loss - middle) for loss in self._losses)
        return middle + self._settings.spike_score * max(spread, LEAST_SPREAD * abs(middle))


class RollBackError(Exception):
    """Too many steps in a row were skipped: back to the last checkpoint, and on with other data."""
