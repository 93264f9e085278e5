"""All clients of one server: who may come in, and who has been silent or idle for too long."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time

from starlette.websockets import WebSocket

from unimodel.world.play.connection import IDLE, NO_ENTRY, TOO_SLOW, Connection, until_first
from unimodel.world.play.place import Lobby
from unimodel.world.play.protocol import Hello

TRY_LATER = 1013
log = logging.getLogger("unimodel.play")


class Hub:
    """Of one server. `token` is what a client must say first."""

    def __init__(self, lobby: Lobby, token: str) -> None:
        self.lobby = lobby
        self._token = token.encode()
        self._limits = lobby.settings.limits
        self._connections: set[Connection] = set()

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
            if connection.place is not None:
                await connection.place.leave(connection.outbox)

    async def sweep(self) -> None:
        """Looks, until it is cancelled, for those who are silent, idle or gone."""
        while True:
            await asyncio.sleep(self._limits.sweep_seconds)
            now = time.monotonic()
            for connection in list(self._connections):
                place, limits = connection.place, self._limits
                if place is None and now - connection.since > limits.hello_seconds:
                    await connection.close(TOO_SLOW, "no first message with a token came")
                elif place is not None and place.idle_seconds(connection.outbox, now) > limits.idle_close_seconds:
                    await connection.close(IDLE, "nothing was pressed for a long time")
            await self.lobby.sweep(now)

    async def _listen(self, connection: Connection) -> None:
        while (message := await connection.receive()) is not None:
            if isinstance(message, Hello):
                if not hmac.compare_digest(message.token.encode(), self._token):
                    await connection.close(NO_ENTRY, "the token is wrong: open the address that the server printed")
                    return
                place = await self.lobby.admit(connection.outbox, message, connection.place)
                connection.place = place or connection.place
            elif connection.place is None:
                await connection.close(NO_ENTRY, "the first message must be hello, with the token")
                return
            else:
                await connection.serve(message)
