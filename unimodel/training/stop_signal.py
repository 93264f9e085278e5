"""Being asked to stop: by a scheduler, or by hand."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class StopSignal:
    """Set by SIGTERM or SIGUSR1, or by Ctrl-C; the loop saves and leaves at the end of the step. A second Ctrl-C leaves
    at once."""

    requested: bool = False
    by_hand: bool = False

    def listen(self) -> None:
        """From now on signals are answered here."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            del frame
            if self.by_hand and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.requested = True
            self.by_hand |= number == signal.SIGINT

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, on_signal)
