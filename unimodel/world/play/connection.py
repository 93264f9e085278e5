"""One WebSocket: who it is, what it may say, and how its wishes reach its world."""

from __future__ import annotations

import asyncio
import contextlib
import time

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from unimodel.world.play import protocol
from unimodel.world.play.outbox import Outbox
from unimodel.world.play.place import Place, Refused
from unimodel.world.play.protocol import ClientMessage, Notice
from unimodel.world.play.settings import Limits
from unimodel.world.play.token_bucket import TokenBucket

POLICY, TOO_BIG = 1008, 1009
NO_ENTRY, TOO_SLOW, IDLE = 4401, 4408, 4409
"""Close codes of our own, which the page explains."""


class Connection:
    """Lives from the acceptance of its socket to its end."""

    def __init__(self, socket: WebSocket, limits: Limits) -> None:
        self._socket, self.limits = socket, limits
        self.outbox = Outbox(limits.frames_in_flight)
        self.place: Place | None = None
        self.since = time.monotonic()
        self._bucket = TokenBucket.full(limits.messages_per_second, limits.burst_messages, self.since)
        self._beyond = 0

    async def send(self) -> None:
        """Sends what waits, until cancelled or the client has gone."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it went while we sent
            while True:
                message = await self.outbox.next()
                await self._socket.send_text(message.model_dump_json())

    async def receive(self) -> ClientMessage | None:
        """The next well-formed message within the rate, what is wrong being answered; None when the client has gone or
        was sent away."""
        while True:
            event = await self._socket.receive()
            if event["type"] == "websocket.disconnect":
                return None
            if not self._bucket.take(time.monotonic()):
                self._beyond += 1
                if self._beyond > self.limits.patience_messages:
                    await self.close(POLICY, "too many messages")
                    return None
                if self._beyond == 1:
                    most = f"{self.limits.messages_per_second:g} messages a second"
                    self.complain("too_many", f"You say more than {most}: some are not heard.")
                continue
            if self._bucket.left > self.limits.burst_messages / 2:
                self._beyond = 0
            text = event.get("text")
            if text is None:
                self.complain("malformed", "Messages are JSON text.")
            elif len(text.encode("utf-8", "replace")) > self.limits.message_bytes:
                await self.close(TOO_BIG, f"a message may have {self.limits.message_bytes} bytes")
                return None
            else:
                try:
                    return protocol.parse(text)
                except ValueError as error:
                    self.complain("malformed", f"That message was not understood: {error}")

    def complain(self, code: str, text: str) -> None:
        """Tells the client what was wrong."""
        self.outbox.put(Notice(level="error", code=code, text=text))

    async def close(self, code: int, reason: str) -> None:
        """Ends it, and says why."""
        if self._socket.application_state is WebSocketState.CONNECTED:
            with contextlib.suppress(RuntimeError):  # it has closed itself in the meantime
                await self._socket.close(code, reason)

    async def serve(self, message: ClientMessage) -> None:
        """Grants a wish, or says why not."""
        place = self.place
        assert place is not None
        if isinstance(message, protocol.Ack):
            self.outbox.acknowledge(message.frame)
            place.acknowledge(self.outbox, message.frame)
            return
        try:
            await place.serve(self.outbox, message)
        except Refused as refused:
            self.complain(refused.code, _sentence(str(refused)))
        except (ValueError, OSError) as error:
            self.complain("refused", _sentence(str(error)))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


async def until_first(*tasks: asyncio.Task[None]) -> None:
    """Waits until one of them ends, ends the others, and raises what the first one raised."""
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()
