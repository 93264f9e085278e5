"""A session and those who look at it: one plays, others may watch."""

from __future__ import annotations

import asyncio
import time

from unimodel.world.play import protocol
from unimodel.world.play.outbox import Outbox
from unimodel.world.play.place import Refused
from unimodel.world.play.playground import Playground
from unimodel.world.play.protocol import ClientMessage, Notice, ServerMessage
from unimodel.world.play.session import Session
from unimodel.world.play.settings import Limits


class Room:
    """Lives from `open` to `close`, also while nobody is there."""

    def __init__(self, key: str, ground: Playground) -> None:
        self.key = key
        self.session = Session(ground, self._show)
        self.player: Outbox | None = None
        self._watchers: list[Outbox] = []
        self._clock: asyncio.Task[None] | None = None
        self.is_closing = False
        """Nobody comes in any more."""
        self.last_input = self._last_seen = time.monotonic()

    async def open(self) -> None:
        """The world begins."""
        await self.session.begin()
        self._clock = asyncio.create_task(self.session.run())

    async def close(self) -> None:
        """The world ends; what was being recorded is written."""
        if self._clock is not None:
            self._clock.cancel()
            await asyncio.gather(self._clock, return_exceptions=True)
        await self.session.end()

    async def join(self, outbox: Outbox, *, as_player: bool) -> None:
        """Somebody comes, or changes places; whoever plays when another takes over goes on watching."""
        await self.leave(outbox)
        if as_player:
            if self.player is not None:
                self._watchers.append(self.player)
            self.player = outbox
        else:
            self._watchers.append(outbox)
        self.last_input = time.monotonic()

    async def leave(self, outbox: Outbox) -> None:
        """Somebody goes. Without a player time stands still and no key is down."""
        self._last_seen = time.monotonic()
        if outbox in self._watchers:
            self._watchers.remove(outbox)
        if outbox is self.player:
            self.player = None
            self.session.release()
            if self.session.is_ticking:
                self.session.pause(True, "nobody was playing")

    async def serve(self, outbox: Outbox, message: ClientMessage) -> None:
        """Grants a wish of the player; a watcher has none."""
        if outbox is not self.player:
            raise Refused("watching", "you are watching: take over to play")
        self.last_input = time.monotonic()
        await _grant(self.session, message)

    def acknowledge(self, outbox: Outbox, frame: int) -> None:
        """A frame is on somebody's screen."""
        if outbox is self.player:
            self.session.acknowledge(frame)

    def idle_seconds(self, outbox: Outbox, now: float) -> float:
        """Since the player last wished for something: whoever watches stays as long."""
        return now - self.last_input

    @property
    def is_empty(self) -> bool:
        """Whether nobody looks on."""
        return self.player is None and not self._watchers

    def empty_seconds(self, now: float) -> float:
        """For how long nobody has been here."""
        return now - self._last_seen if self.is_empty else 0.0

    def pause_if_forgotten(self, now: float, limits: Limits) -> None:
        """Stops a clock that runs for nobody."""
        if not self.session.is_ticking or self.player is None:
            return
        waiting = self.player.unanswered_since()
        if waiting is not None and now - waiting > limits.silence_seconds:
            self.session.release()
            self.session.pause(True, "the page does not answer")
        elif now - self.last_input > limits.idle_pause_seconds:
            self.session.pause(True, "no key was pressed for a while")

    def _show(self, message: ServerMessage) -> None:
        for outbox in (*self._watchers, *([self.player] if self.player is not None else [])):
            if outbox.put(message) and outbox is self.player:
                self.session.dropped += 1


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


def taken_over() -> Notice:
    """To whoever played until now."""
    text = "Somebody else plays this world now, in another window. You are watching."
    return Notice(level="info", code="taken_over", text=text)
