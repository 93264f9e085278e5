"""What waits to be sent to one client. A slow client gets fewer frames, never old ones."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from unimodel.world.play.protocol import Frame, ServerMessage, State

MOST_MESSAGES = 32
"""Of those that are neither frames nor states; the oldest go first."""


class Outbox:
    """Of frames, and of states, only the newest waits; a new frame is not sent while `frames_in_flight` are neither
    drawn nor acknowledged."""

    def __init__(self, frames_in_flight: int) -> None:
        self._most_in_flight = frames_in_flight
        self._others: deque[ServerMessage] = deque(maxlen=MOST_MESSAGES)
        self._state: State | None = None
        self._frame: Frame | None = None
        self._in_flight: dict[int, float] = {}
        self._changed = asyncio.Event()

    def put(self, message: ServerMessage) -> bool:
        """Lets it wait; whether that dropped a frame."""
        dropped = False
        if isinstance(message, Frame):
            dropped, self._frame = self._frame is not None, message
        elif isinstance(message, State):
            self._state = message
        else:
            self._others.append(message)
        self._changed.set()
        return dropped

    def acknowledge(self, frame: int) -> None:
        """It, and all before it, are drawn or gone."""
        for number in [number for number in self._in_flight if number <= frame]:
            del self._in_flight[number]
        self._changed.set()

    def unanswered_since(self) -> float | None:
        """When (`time.monotonic`) the oldest frame was sent that is not acknowledged."""
        return min(self._in_flight.values(), default=None)

    async def next(self) -> ServerMessage:
        """The next message, as soon as there is one that may be sent."""
        while True:
            if self._others:
                return self._others.popleft()
            if self._state is not None:
                state, self._state = self._state, None
                return state
            if self._frame is not None and len(self._in_flight) < self._most_in_flight:
                frame, self._frame = self._frame, None
                self._in_flight[frame.id] = time.monotonic()
                return frame
            self._changed.clear()
            await self._changed.wait()
