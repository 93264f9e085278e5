"""One person's session: their world, the clock that moves it, and their wishes, which are granted between two steps."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable

from unimodel.world.play.clock import Clock, Due
from unimodel.world.play.history import HistoryFull, Moment
from unimodel.world.play.pace import Meter
from unimodel.world.play.played_world import PlayedWorld
from unimodel.world.play.playground import Playground
from unimodel.world.play.protocol import (
    BranchState,
    Choice,
    Frame,
    Happening,
    Measured,
    Mode,
    Notice,
    Panel,
    Recording,
    ServerMessage,
    State,
    Trial,
)
from unimodel.world.play.recording import Recorder, new_folder
from unimodel.world.play.votes import BlindTrial, vote


class Session:
    """`show` gets every message for those who look on. Wishes that cannot be granted raise ValueError."""

    def __init__(self, ground: Playground, show: Callable[[ServerMessage], None]) -> None:
        self.ground, self._show = ground, show
        self._clock = Clock(ground.controls, 1 / ground.settings.fps)
        self._between_steps = asyncio.Lock()
        self._woken = asyncio.Event()
        self._mode: Mode = ground.first_mode
        self._paused, self._why_paused = False, None
        self._trial: BlindTrial | None = None
        self._trials = 0
        self._recorder: Recorder | None = None
        self._recorded: str | None = None
        self._meter = Meter()
        self._frames = 0
        self.dropped = 0
        """Frames that the client was too slow for."""
        self._world: PlayedWorld

    async def begin(self, episode: int = 0) -> None:
        """Opens the world; nothing else may be asked before."""
        self._world = await PlayedWorld.begin(self.ground, episode, [0], beside_reality=True)

    async def run(self) -> None:
        """Moves the world, until it is cancelled."""
        while True:
            self._woken.clear()
            due = self._clock.take(time.monotonic(), ticking=self.is_ticking)
            if isinstance(due, Due):
                async with self._between_steps:
                    await self._advance(due)
                continue
            try:
                await asyncio.wait_for(self._woken.wait(), due)
            except TimeoutError:
                continue

    async def end(self) -> None:
        """Writes what is being recorded and closes the world. Raises OSError when the disk is full."""
        async with self._between_steps:
            await self._world.close()
            await self._write_recording()

    @property
    def is_ticking(self) -> bool:
        """Whether time goes on by itself."""
        return self._mode == "real_time" and not self._paused

    # --- keys and time ----------------------------------------------------------------------------------------------

    def press(self, action: int) -> None:
        """A key goes down."""
        most = len(self.ground.controls.names)
        if action >= most:
            raise ValueError(f"there are the actions 0 to {most - 1}, not {action}")
        self._clock.press(action, time.monotonic())
        self._woken.set()

    def release(self, action: int | None = None) -> None:
        """A key comes up, or all of them."""
        if action is None:
            self._clock.release_all()
        else:
            self._clock.release(action)

    def single_step(self) -> None:
        """One step with what is held, or with the action that does nothing."""
        if self.ground.controls.idle is None:
            raise ValueError("every action of this world does something: press a key to take a step")
        self._clock.ask_step()
        self._woken.set()

    def acknowledge(self, frame: int) -> None:
        """The frame is on the screen."""
        self._meter.acknowledge(frame, time.monotonic())

    def pause(self, paused: bool, why: str | None = None) -> None:
        """Stops the clock, or lets it run again."""
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

    # --- the world --------------------------------------------------------------------------------------------------

    async def rewind(self, step: int) -> None:
        """To a step of the current branch; time stands still there."""
        async with self._between_steps:
            before = self._world.history.path()
            self._world.history.rewind(step)
            self._arrive(before)

    async def switch(self, branch: int) -> None:
        """To the end of another branch."""
        async with self._between_steps:
            before = self._world.history.path()
            self._world.history.switch(branch)
            self._arrive(before)

    async def branch(self) -> None:
        """A new branch from here."""
        async with self._between_steps:
            if not self._world.history.line.moments:
                raise ValueError("this branch has no step of its own yet: take one first")
            self._world.history.fork()
            self._pause_here()
            self.show()

    async def restart(self, episode: int | None) -> None:
        """From the first frame of an episode, of the same one when none is named."""
        async with self._between_steps:
            if self._trial is not None:
                raise ValueError("a comparison has starts of its own: end it first")
            await self._begin(self._world.episode if episode is None else episode, [0])

    async def tell(self, text: str) -> None:
        """Says something to the world; it knows from the next step on."""
        async with self._between_steps:
            path = self._world.history.path()
            await self._world.tell(text)
            if self._recorder is not None and not self.ground.hears_events:
                self._recorder.cut(path, self._world.history.step)
            self._show(self.state())

    async def record(self, on: bool) -> None:
        """Begins a recording, or ends and writes it."""
        async with self._between_steps:
            if on and self._trial is not None:
                raise ValueError("a comparison is not recorded: end it first")
            if on and self._recorder is None:
                self._recorder = Recorder(self._world.history.step)
            elif not on:
                await self._write_recording()
            self._show(self.state())

    async def compare(self, on: bool) -> None:
        """A blind trial, the next one, or back to playing."""
        async with self._between_steps:
            if on and len(self.ground.model.dreams) < 2:
                raise ValueError("there is nothing to compare with: start the server with --compare OTHER_RUN")
            if on:
                await self._write_recording()
                self._trials += 1
                self._trial = BlindTrial.drawn(self._trials, len(self.ground.starts))
                await self._begin(self._trial.episode, [self._trial.left, self._trial.right])
            elif self._trial is not None:
                self._trial = None
                await self._begin(self._world.episode, [0])

    async def vote(self, choice: Choice) -> None:
        """Ends a trial and tells what was where."""
        async with self._between_steps:
            if self._trial is None or self._trial.result is not None:
                raise ValueError("there is no trial to vote on")
            steps = max(line.tip for line in self._world.history.lines)
            if steps == 0:
                raise ValueError("play a few steps before you vote")
            ground = self.ground
            self._trial.result = await asyncio.to_thread(
                vote, ground.run.path, self._trial, ground.checkpoints, choice, steps
            )
            self._pause_here()
            self._show(self.state())

    async def _begin(self, episode: int, dreams: list[int]) -> None:
        world = await PlayedWorld.begin(self.ground, episode, dreams, beside_reality=len(dreams) == 1)
        if self._recorder is not None:
            self._recorder.cut(self._world.history.path(), 0)
        await self._world.close()
        self._world = world
        self._clock.release_all()
        self._paused, self._why_paused = False, None
        self._meter.clear()
        self.show()

    def _arrive(self, before: list[Moment]) -> None:
        """At another moment than the end of the path `before`."""
        if self._recorder is not None:
            self._recorder.cut(before, self._world.history.step)
        self._world.arrive()
        self._pause_here()
        self.show()

    def _pause_here(self) -> None:
        """Whoever looks around wants time to stand still."""
        if self._mode == "real_time":
            self._paused, self._why_paused = True, None
        self._clock.release_all()
        self._meter.clear()

    async def _write_recording(self) -> None:
        if self._recorder is None:
            return
        recorder, self._recorder = self._recorder, None
        recorder.cut(self._world.history.path(), 0)
        folder, ground = new_folder(self.ground.run.path), self.ground
        names = ground.controls.names
        if await asyncio.to_thread(recorder.write, folder, names, ground.checkpoints[0]):
            self._recorded = str(folder)
        else:
            self._show(
                Notice(level="info", code="nothing_recorded", text="No step was taken, so nothing was recorded.")
            )

    async def _advance(self, due: Due) -> None:
        ticking = self.is_ticking
        passes = self.ground.pace.passes if ticking else self.ground.settings.passes
        branch = self._world.history.branch
        try:
            seconds = await self._world.advance(due.action, passes)
        except Exception as error:  # told to this client; every other world goes on
            self._paused, self._why_paused = True, "a step failed"
            code = "full" if isinstance(error, HistoryFull) else "step"
            self._show(Notice(level="error", code=code, text=f"The world could not go on: {error}"))
            self._show(self.state())
            return
        if ticking:
            self.ground.pace.note(passes, seconds)
        if self._world.history.branch != branch or self._world.history.here().events:
            self._show(self.state())
        self._show(self.frame(due.pressed_at))

    # --- what is to be seen -----------------------------------------------------------------------------------------

    def show(self) -> None:
        """All of it."""
        self._show(self.state())
        self._show(self.frame())

    def state(self) -> State:
        """What changes now and then."""
        world, trial, recorder = self._world, self._trial, self._recorder
        history = world.history
        panels: tuple[Panel, ...] = ("dream", "real") if trial is None else ("left", "right")
        return State(
            episode=world.episode,
            panels=panels,
            mode=self._mode,
            paused=self._paused,
            why_paused=self._why_paused,
            mission=world.mission,
            events=tuple(Happening(step=step, text=text) for step, text in history.events()),
            coming=world.coming,
            branch=history.branch,
            step=history.step,
            branches=tuple(
                BranchState(number=line.number, parent=line.parent, fork=line.fork, tip=line.tip)
                for line in history.lines
            ),
            psnr=tuple(moment.psnr for moment in history.whole()),
            recording=Recording(on=recorder is not None, folder=self._recorded),
            trial=Trial(number=trial.number, result=trial.result) if trial is not None else None,
        )

    def frame(self, pressed_at: float | None = None) -> Frame:
        """The picture of where one is; `pressed_at` says when the key went down that it answers."""
        history, meter, ground = self._world.history, self._meter, self.ground
        moment = history.here()
        self._frames += 1
        meter.show(self._frames, time.monotonic(), pressed_at)
        return Frame(
            id=self._frames,
            branch=history.branch,
            step=history.step,
            action=moment.action,
            pictures=tuple(base64.b64encode(picture).decode() for picture in moment.pictures),
            psnr=moment.psnr,
            differs=moment.differs,
            differs_at=history.differs_at(),
            real_note=moment.real_note,
            possible=self._world.possible,
            measured=Measured(
                fps=meter.per_second() if self.is_ticking else None,
                passes=ground.pace.passes if self.is_ticking else ground.settings.passes,
                p50_ms=meter.wait_milliseconds(0.5),
                p95_ms=meter.wait_milliseconds(0.95),
                dropped=self.dropped,
            ),
        )
