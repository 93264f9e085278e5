"""One world for all clients of a server: who comes, by which name, and what each may do."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from dataclasses import dataclass

from unimodel.world.play import protocol
from unimodel.world.play.outbox import Outbox
from unimodel.world.play.place import Place, Refused
from unimodel.world.play.protocol import ClientMessage, Control, Hello, Notice, ServerMessage, Welcome
from unimodel.world.play.settings import PlaySettings
from unimodel.world.play.shared_ground import SharedGround
from unimodel.world.play.shared_session import SharedSession

GUEST = "guest"
log = logging.getLogger("unimodel.play")


@dataclass(slots=True)
class Member:
    """Who a client is, and when it last wished for something."""

    name: str
    last_input: float


class SharedRoom:
    """Lives from `open` to `close`, also while nobody is there."""

    def __init__(self, ground: SharedGround) -> None:
        self.ground = ground
        self.session = SharedSession(ground, self._show)
        self._members: dict[Outbox, Member] = {}
        self._moving = asyncio.Lock()
        self._clock: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def settings(self) -> PlaySettings:
        return self.ground.settings

    async def open(self) -> None:
        """Its clock begins to run, and bots come in."""
        await self.session.begin()
        for name in self.ground.bots:
            await self.session.join(name)
        self._clock = asyncio.create_task(self.session.run())

    async def close(self) -> None:
        """The world is let go of."""
        async with self._moving:
            self._is_closed = True
            if self._clock is not None:
                self._clock.cancel()
                await asyncio.gather(self._clock, return_exceptions=True)
            await asyncio.to_thread(self.ground.close)

    async def admit(self, outbox: Outbox, hello: Hello, place: Place | None) -> Place | None:
        """In, by the name that is asked for, or was had before, or by another one if that is taken. Who is in already
        may take another name."""
        async with self._moving:
            try:
                name = await self._let_in(outbox, hello)
            except OSError as error:
                outbox.put(Notice(level="error", code="refused", text=f"Nobody can come in: {error}"))
                return None
        outbox.put(self._what_is_here(name))
        outbox.put(self.session.state())
        outbox.put(self.session.frame())
        return self

    async def leave(self, outbox: Outbox) -> None:
        """Somebody goes."""
        async with self._moving:
            await self._go(outbox)

    async def serve(self, outbox: Outbox, message: ClientMessage) -> None:
        """Grants a wish of anybody who is there."""
        member = self._members.get(outbox)
        if member is None:
            raise Refused("outside", "you are not in this world: load the page again")
        member.last_input = time.monotonic()
        name, session = member.name, self.session
        comes_up = isinstance(message, protocol.Release) or (isinstance(message, protocol.Key) and not message.down)
        if session.looks_on(name) and not comes_up:
            raise Refused("taken", "all agents of this world are taken: you look on until one is free")
        match message:
            case protocol.Key(action=action, down=True):
                session.press(name, action)
            case protocol.Key(action=action):
                session.release(name, action)
            case protocol.Release():
                session.release(name)
            case protocol.SetMode(mode=mode):
                session.set_mode(mode)
            case protocol.Pause(paused=paused):
                session.pause(paused)
            case protocol.Step():
                session.single_step(name)
            case protocol.Text(text=text):
                await session.tell(name, text)
            case _:
                how = f"`unimodel world rewind` and `branch` do that to '{self.ground.name}' while no server has it"
                raise Refused("shared", f"this world is everybody's and goes on: {how}")

    def acknowledge(self, outbox: Outbox, frame: int) -> None:
        """A frame is on somebody's screen."""
        if outbox in self._members:
            self.session.acknowledge(self._members[outbox].name, frame)

    def idle_seconds(self, outbox: Outbox, now: float) -> float:
        """Since they last wished for something."""
        member = self._members.get(outbox)
        return now - member.last_input if member is not None else 0.0

    async def sweep(self, now: float) -> None:
        """The keys of those whose page does not answer come up; without any wish for a while the clock stops."""
        limits = self.settings.limits
        for outbox, member in self._members.items():
            waiting = outbox.unanswered_since()
            if waiting is not None and now - waiting > limits.silence_seconds:
                self.session.release(member.name)
        if not self.session.is_ticking or not self._members:
            return
        if all(now - member.last_input > limits.idle_pause_seconds for member in self._members.values()):
            self.session.pause(True, "nobody pressed a key for a while")

    async def _let_in(self, outbox: Outbox, hello: Hello) -> str:
        """The name by which they are in now. Raises OSError when that cannot be written down."""
        before = self._members.get(outbox)
        wanted = hello.name or (before.name if before else self._name_before(hello.session))
        if before is not None and before.name == wanted:
            return before.name
        name = self._free_name(wanted)
        if hello.name is not None and name != hello.name:
            text = f"“{hello.name}” is here already: you are {name}."
            outbox.put(Notice(level="info", code="name", text=text))
        if before is not None:
            await self.session.rename(before.name, name)
        else:
            await self.session.join(name)
        self._members[outbox] = Member(name, time.monotonic())
        return name

    def _name_before(self, session: str | None) -> str | None:
        """Of somebody who was in this world before, perhaps on a server that has ended."""
        world, _, name = (session or "").rpartition("/")
        return name if world == self.ground.name and protocol.is_name(name) else None

    async def _go(self, outbox: Outbox) -> None:
        member = self._members.pop(outbox, None)
        if member is None or self._is_closed:
            return
        try:
            await self.session.leave(member.name)
        except OSError as error:  # the world is as it was, and they are gone
            log.error("that %s left could not be written down: %s", member.name, error)

    def _free_name(self, wanted: str | None) -> str:
        taken = self.ground.world.past.here
        if wanted and wanted not in taken:
            return wanted
        stem = (wanted or GUEST).rstrip("0123456789").rstrip("-")[:18] or GUEST
        return next(name for n in itertools.count(1) if (name := f"{stem}-{n}") not in taken)

    def _what_is_here(self, name: str) -> Welcome:
        ground, controls, birth = self.ground, self.ground.controls, self.ground.world.past.birth
        return Welcome(
            session=f"{ground.name}/{name}",
            role="player",
            run=str(ground.dream.run.path),
            dreamed_by=str(ground.dream.checkpoint),
            real=None,
            controls=tuple(
                Control(name=action, key=controls.keys[i], is_idle=i == controls.idle)
                for i, action in enumerate(controls.names)
            ),
            episodes=1,
            fps=ground.settings.fps,
            passes=ground.settings.passes,
            can_compare=False,
            hears_events=ground.dream.hears_events,
            text_tokens=ground.dream.text_tokens,
            world=ground.name,
            you=name,
            seats=tuple(map(birth.seat_name, range(birth.num_agents))) if ground.num_agents > 1 else (),
            seat=ground.world.past.seats.get(name) if ground.num_agents > 1 else None,
        )

    def _show(self, message: ServerMessage) -> None:
        for outbox in self._members:
            if outbox.put(message):
                self.session.dropped += 1
