"""All clients and worlds of one server: who may come in, who is where, and who has been gone for too long."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time

from starlette.websockets import WebSocket

from unimodel.world.play.connection import IDLE, NO_ENTRY, TOO_SLOW, Connection, until_first
from unimodel.world.play.playground import Playground
from unimodel.world.play.protocol import Control, Hello, Notice, Occupied, Welcome
from unimodel.world.play.room import Room, taken_over

TRY_LATER = 1013
log = logging.getLogger("unimodel.play")


class Hub:
    """Of one server. `token` is what a client must say first."""

    def __init__(self, ground: Playground, token: str) -> None:
        self.ground = ground
        self._token = token.encode()
        self._limits = ground.settings.limits
        self._connections: set[Connection] = set()
        self._rooms: dict[str, Room] = {}

    async def serve(self, socket: WebSocket) -> None:
        """One client, from its arrival to its end. What goes wrong ends this client alone."""
        await socket.accept()
        connection = Connection(socket, self._limits)
        if len(self._connections) >= self._limits.max_clients:
            await connection.close(TRY_LATER, f"{self._limits.max_clients} clients are here already: try again later")
            return
        self._connections.add(connection)
        try:
            await until_first(asyncio.create_task(connection.send()), asyncio.create_task(self._listen(connection)))
        except Exception:
            log.exception("a client's message could not be handled")
            await connection.close(1011, "something went wrong on the server")
        finally:
            self._connections.discard(connection)
            if connection.room is not None:
                connection.room.leave(connection.outbox)

    async def sweep(self) -> None:
        """Looks, until it is cancelled, for those who are silent, idle or gone."""
        while True:
            await asyncio.sleep(self._limits.sweep_seconds)
            now = time.monotonic()
            for connection in list(self._connections):
                room = connection.room
                if room is None and now - connection.since > self._limits.hello_seconds:
                    await connection.close(TOO_SLOW, "no first message with a token came")
                elif room is not None and now - room.last_input > self._limits.idle_close_seconds:
                    await connection.close(IDLE, "nothing was pressed for a long time")
            for room in list(self._rooms.values()):
                room.pause_if_forgotten(now, self._limits)
                if room.empty_seconds(now) > self._limits.keep_seconds:
                    await self._close(room)

    async def close(self) -> None:
        """Ends all worlds."""
        for room in list(self._rooms.values()):
            await self._close(room)

    async def _listen(self, connection: Connection) -> None:
        while (message := await connection.receive()) is not None:
            if isinstance(message, Hello):
                if not hmac.compare_digest(message.token.encode(), self._token):
                    await connection.close(NO_ENTRY, "the token is wrong: open the address that the server printed")
                    return
                await self._welcome(connection, message)
            elif connection.room is None:
                await connection.close(NO_ENTRY, "the first message must be hello, with the token")
                return
            else:
                await connection.serve(message)

    async def _welcome(self, connection: Connection, hello: Hello) -> None:
        room = connection.room or self._rooms.get(hello.session or "")
        if room is None or room.is_closing:
            room = await self._open_room()
            if hello.session is not None:
                text = "The world you had is gone; this is a new one."
                connection.outbox.put(Notice(level="info", code="new_world", text=text))
        is_taken = room.player is not None and room.player is not connection.outbox
        if is_taken and hello.joining == "ask":
            connection.outbox.put(Occupied())
            return
        replaced = room.player if is_taken and hello.joining == "take_over" else None
        connection.room = room
        room.join(connection.outbox, as_player=hello.joining != "watch")
        connection.outbox.put(self._what_is_here(room, connection))
        for other in self._connections:
            if other.outbox is replaced:
                other.outbox.put(taken_over())
                other.outbox.put(self._what_is_here(room, other))
        connection.outbox.put(room.session.state())
        connection.outbox.put(room.session.frame())

    async def _open_room(self) -> Room:
        """A new world; the one that has waited longest for its client makes room."""
        if len(self._rooms) >= self._limits.max_clients:
            now = time.monotonic()
            await self._close(max(self._rooms.values(), key=lambda room: room.empty_seconds(now)))
        room = Room(secrets.token_urlsafe(12), self.ground)
        self._rooms[room.key] = room
        try:
            await room.open()
        except BaseException:
            del self._rooms[room.key]
            raise
        return room

    async def _close(self, room: Room) -> None:
        room.is_closing = True
        try:
            await room.close()
        except OSError as error:
            log.error("a recording could not be written: %s", error)
        self._rooms.pop(room.key, None)

    def _what_is_here(self, room: Room, connection: Connection) -> Welcome:
        ground, controls = self.ground, self.ground.controls
        return Welcome(
            session=room.key,
            role="player" if room.player is connection.outbox else "watcher",
            run=str(ground.run.path),
            dreamed_by=str(ground.checkpoints[0]),
            real=ground.environment,
            controls=tuple(
                Control(name=name, key=controls.keys[i], is_idle=i == controls.idle)
                for i, name in enumerate(controls.names)
            ),
            episodes=len(ground.starts),
            fps=ground.settings.fps,
            passes=ground.settings.passes,
            can_compare=len(ground.checkpoints) > 1,
            hears_events=ground.hears_events,
            text_tokens=ground.text_tokens,
        )
