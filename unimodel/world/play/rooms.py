"""Worlds of one client each, which begin with it and end some time after it has gone."""

from __future__ import annotations

import logging
import secrets
import time

from unimodel.world.play.outbox import Outbox
from unimodel.world.play.place import Place
from unimodel.world.play.playground import Playground
from unimodel.world.play.protocol import Control, Hello, Notice, Occupied, Welcome
from unimodel.world.play.room import Room, taken_over
from unimodel.world.play.settings import PlaySettings

log = logging.getLogger("unimodel.play")


class Rooms:
    """Of one server, on a playground that ends with them."""

    def __init__(self, ground: Playground) -> None:
        self.ground = ground
        self._limits = ground.settings.limits
        self._rooms: dict[str, Room] = {}

    @property
    def settings(self) -> PlaySettings:
        return self.ground.settings

    async def open(self) -> None:
        """There is nothing to do yet."""

    async def admit(self, outbox: Outbox, hello: Hello, place: Place | None) -> Place | None:
        """Into the room where the client is or was, or into a new one."""
        room = place if isinstance(place, Room) else self._rooms.get(hello.session or "")
        if room is None or room.is_closing:
            room = await self._open_room()
            if hello.session is not None:
                text = "The world you had is gone; this is a new one."
                outbox.put(Notice(level="info", code="new_world", text=text))
        is_taken = room.player is not None and room.player is not outbox
        if is_taken and hello.joining == "ask":
            outbox.put(Occupied())
            return None
        replaced = room.player if is_taken and hello.joining == "take_over" else None
        await room.join(outbox, as_player=hello.joining != "watch")
        outbox.put(self._what_is_here(room, outbox))
        if replaced is not None:
            replaced.put(taken_over())
            replaced.put(self._what_is_here(room, replaced))
        outbox.put(room.session.state())
        outbox.put(room.session.frame())
        return room

    async def sweep(self, now: float) -> None:
        """Pauses the worlds of those who are silent and closes those that nobody comes back to."""
        for room in list(self._rooms.values()):
            room.pause_if_forgotten(now, self._limits)
            if room.empty_seconds(now) > self._limits.keep_seconds:
                await self._close(room)

    async def close(self) -> None:
        """Ends all worlds, and the playground."""
        for room in list(self._rooms.values()):
            await self._close(room)
        self.ground.close()

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

    def _what_is_here(self, room: Room, outbox: Outbox) -> Welcome:
        ground, controls = self.ground, self.ground.controls
        return Welcome(
            session=room.key,
            role="player" if room.player is outbox else "watcher",
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
