"""One WebSocket: who it is, what it may say, and how its wishes reach its session."""

from __future__ import annotations

import asyncio
import contextlib
import time

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from unimodel.world.play import protocol
from unimodel.world.play.outbox import Outbox
from unimodel.world.play.protocol import ClientMessage, Notice
from unimodel.world.play.room import Room
from unimodel.world.play.session import Session
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
        self.room: Room | None = None
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
        """Grants a wish of the player, or says why not; a watcher has none."""
        room = self.room
        assert room is not None
        if isinstance(message, protocol.Ack):
            self.outbox.acknowledge(message.frame)
            if room.player is self.outbox:
                room.session.acknowledge(message.frame)
        elif room.player is not self.outbox:
            self.complain("watching", "You are watching: take over to play.")
        else:
            room.last_input = time.monotonic()
            try:
                await _grant(room.session, message)
            except (ValueError, OSError) as error:
                self.complain("refused", _sentence(str(error)))


async def _grant(session: Session, message: ClientMessage) -> None:  # noqa: C901 - one case per message
    match message:
        case protocol.Key(action=action, down=True):
            session.press(action)
        case protocol.Key(action=action):
            session.release(action)
        case protocol.Release():
            session.release()
        case protocol.SetMode(mode=mode):
            session.set_mode(mode)
        case protocol.Pause(paused=paused):
            session.pause(paused)
        case protocol.Step():
            session.single_step()
        case protocol.Rewind(step=step):
            await session.rewind(step)
        case protocol.Branch():
            await session.branch()
        case protocol.Switch(branch=branch):
            await session.switch(branch)
        case protocol.Restart(episode=episode):
            await session.restart(episode)
        case protocol.Text(text=text):
            await session.tell(text)
        case protocol.Record(on=on):
            await session.record(on)
        case protocol.Compare(on=on):
            await session.compare(on)
        case protocol.Vote(choice=choice):
            await session.vote(choice)
        case protocol.Hello() | protocol.Ack():
            raise ValueError("you have been welcomed already")


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
