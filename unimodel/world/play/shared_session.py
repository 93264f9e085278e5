"""The session of a shared world: the clock that moves it, who acts, and what all who are there are shown."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable

from data_pipelines.sources.episode import UNKNOWN_ACTION
from unimodel.world.play.difference import encode_png
from unimodel.world.play.pace import Meter
from unimodel.world.play.protocol import (
    Acted,
    BranchState,
    Frame,
    Happening,
    Life,
    Measured,
    Mode,
    Note,
    Notice,
    Person,
    Recording,
    ServerMessage,
    State,
)
from unimodel.world.play.rounds import Round, Rounds
from unimodel.world.play.shared_ground import NOTES, SharedGround
from unimodel.world.play.turns import Turn, Turns
from unimodel.world.sessions.catalogue import files_bytes
from unimodel.world.sessions.notes import note_of


class SharedSession:
    """`show` gets every message for those who are there. Wishes that cannot be granted raise ValueError, and OSError
    what cannot be written to the disk."""

    def __init__(self, ground: SharedGround, show: Callable[[ServerMessage], None]) -> None:
        self.ground, self._show = ground, show
        period, agents = 1 / ground.settings.fps, ground.num_agents
        self._turns = Turns(ground.controls, period) if agents == 1 else Rounds(ground.controls, period, agents)
        self._between_steps = asyncio.Lock()
        self._woken = asyncio.Event()
        self._mode: Mode = "turns"
        self._paused, self._why_paused = False, None
        self._meter = Meter()
        self._frames = 0
        self._actor: str | None = None
        self._memory_bytes = 0
        self._picture = b""
        self.dropped = 0
        """Frames that somebody was too slow for."""

    async def begin(self) -> None:
        """Looks at the world; nothing else may be asked before."""
        self._picture = encode_png(await self.ground.model.call(self.ground.picture))
        await self._weigh()

    async def run(self) -> None:
        """Moves the world, until it is cancelled."""
        while True:
            self._woken.clear()
            turn = self._turns.take(time.monotonic(), ticking=self.is_ticking)
            if isinstance(turn, Turn | Round):
                async with self._between_steps:
                    await self._advance(turn)
                continue
            try:
                await asyncio.wait_for(self._woken.wait(), turn)
            except TimeoutError:
                continue

    @property
    def is_ticking(self) -> bool:
        """Whether time goes on by itself."""
        return self._mode == "real_time" and not self._paused

    # --- who is there, and their keys -------------------------------------------------------------------------------

    async def join(self, agent: str) -> None:
        """Somebody comes."""
        async with self._between_steps:
            await self.ground.model.call(lambda: self.ground.world.join(agent))
            self._turns.settle(self.ground.world.past.seats)
            self._show(self.state())

    async def rename(self, agent: str, name: str) -> None:
        """Somebody goes on under another name."""
        async with self._between_steps:
            await self.ground.model.call(lambda: self.ground.world.rename(agent, name))
            self._turns.settle(self.ground.world.past.seats)
            self._show(self.state())

    async def leave(self, agent: str) -> None:
        """Somebody goes. Without anybody time stands still."""
        async with self._between_steps:
            self.release(agent)
            await self.ground.model.call(lambda: self.ground.world.leave(agent))
            self._turns.settle(self.ground.world.past.seats)
            if not self.ground.world.past.here.keys() - self.ground.bots.keys() and self.is_ticking:
                self._paused, self._why_paused = True, "nobody was there"
            self._show(self.state())

    def looks_on(self, agent: str) -> bool:
        """Whether somebody is here and cannot act: others are all of the agents."""
        return agent not in self._turns

    def press(self, agent: str, action: int) -> None:
        """A key of somebody goes down."""
        most = len(self.ground.controls.names)
        if action >= most:
            raise ValueError(f"there are the actions 0 to {most - 1}, not {action}")
        self._turns.of(agent).press(action, time.monotonic())
        self._woken.set()

    def release(self, agent: str, action: int | None = None) -> None:
        """A key comes up, or all of theirs."""
        if self.looks_on(agent):
            return
        clock = self._turns.of(agent)
        if action is None:
            clock.release_all()
        else:
            clock.release(action)

    def single_step(self, agent: str) -> None:
        """One step with what they hold, or with the action that does nothing."""
        if self.ground.controls.idle is None:
            raise ValueError("every action of this world does something: press a key to take a step")
        self._turns.of(agent).ask_step()
        self._woken.set()

    def acknowledge(self, agent: str, frame: int) -> None:
        """The frame is on somebody's screen."""
        if agent == self._actor:
            self._meter.acknowledge(frame, time.monotonic())

    # --- time, and what is said -------------------------------------------------------------------------------------

    def pause(self, paused: bool, why: str | None = None) -> None:
        """Stops the clock for all, or lets it run again."""
        if paused != self._paused:
            self._set_time(self._mode, paused, why)

    def set_mode(self, mode: Mode) -> None:
        """Who moves time: keys, or the clock."""
        self._set_time(mode, paused=False)

    def _set_time(self, mode: Mode, paused: bool, why: str | None = None) -> None:
        self._mode, self._paused, self._why_paused = mode, paused, why
        self._meter.clear()
        self._woken.set()
        self._show(self.state())

    async def tell(self, agent: str, text: str) -> None:
        """Somebody says something to the world; it knows from the next step on."""
        async with self._between_steps:
            await self.ground.model.call(lambda: self.ground.tell(agent, text))
            self._show(self.state())

    async def _advance(self, turn: Turn | Round) -> None:
        ground = self.ground
        passes = ground.pace.passes if self.is_ticking else ground.settings.passes
        told, began = bool(ground.world.past.coming), time.monotonic()
        try:
            picture = await ground.model.call(lambda: ground.step(turn.acts, passes))
        except Exception as error:  # told to those who are there; the world is as it was
            self._paused, self._why_paused = True, "a step failed"
            self._turns.release_all()
            self._show(Notice(level="error", code="step", text=f"The world could not go on: {error}"))
            self._show(self.state())
            return
        if self.is_ticking:
            ground.pace.note(passes, time.monotonic() - began)
        self._picture, self._actor = encode_png(picture), turn.agent
        if told or ground.world.has_kept_memory:
            await self._weigh()
            self._show(self.state())
        self._show(self.frame(turn.pressed_at))

    async def _weigh(self) -> None:
        self._memory_bytes = await self.ground.model.call(lambda: self.ground.world.memory_bytes)

    # --- what is to be seen -----------------------------------------------------------------------------------------

    def state(self) -> State:
        """What changes now and then."""
        world, past = self.ground.world, self.ground.world.past
        # Copies: the model's thread writes to them.
        notable, here = list(past.notable), dict(past.here)
        who = {seat: name for name, seat in dict(past.seats).items()}
        agents = self.ground.num_agents
        told = [note_of(entry, past.birth) for entry in notable]
        notes = [Note(tick=note.tick, text=note.text) for note in told if note is not None]
        events = [deed for deed in list(past.told) if deed.kind == "event"]
        return State(
            episode=0,
            panels=("world",),
            mode=self._mode,
            paused=self._paused,
            why_paused=self._why_paused,
            mission=self._mission(),
            events=tuple(Happening(step=deed.tick - 1, text=deed.value["text"]) for deed in events[-1:]),
            coming=tuple(deed.value["text"] for deed in list(past.coming) if deed.kind == "event"),
            branch=0,
            step=past.tick,
            branches=(BranchState(number=0, parent=None, fork=-1, tip=past.tick),),
            psnr=(),
            recording=Recording(on=False, folder=None),
            trial=None,
            life=Life(
                agents=tuple(Person(name=name, since=since) for name, since in here.items()),
                seats=tuple(who.get(seat) for seat in range(agents)) if agents > 1 else (),
                notes=tuple(notes[: -NOTES - 1 : -1]),
                memory_bytes=self._memory_bytes,
                log_bytes=files_bytes(world.folder),
                born=past.born_at,
            ),
        )

    def frame(self, pressed_at: float | None = None) -> Frame:
        """The picture of now; `pressed_at` says when the key went down that it answers."""
        past, meter, ground = self.ground.world.past, self._meter, self.ground
        self._frames += 1
        meter.show(self._frames, time.monotonic(), pressed_at)
        acts = tuple(
            Acted(agent=act.agent or None, action=None if act.action == UNKNOWN_ACTION else act.action)
            for act in past.at(past.tick).acts
        )
        act = acts[0] if len(acts) == 1 else None
        return Frame(
            id=self._frames,
            branch=0,
            step=past.tick,
            action=act.action if act is not None else None,
            agent=act.agent if act is not None else None,
            acts=acts if len(acts) > 1 else (),
            pictures=(base64.b64encode(self._picture).decode(),),
            psnr=None,
            differs=False,
            differs_at=None,
            real_note=None,
            possible=(),
            measured=Measured(
                fps=meter.per_second() if self.is_ticking else None,
                passes=ground.pace.passes if self.is_ticking else ground.settings.passes,
                p50_ms=meter.wait_milliseconds(0.5),
                p95_ms=meter.wait_milliseconds(0.95),
                dropped=self.dropped,
            ),
        )

    def _mission(self) -> str:
        past = self.ground.world.past
        coming = [deed.value["text"] for deed in past.coming if deed.kind == "mission"]
        return coming[-1] if coming else past.mission(past.tick)[0]
