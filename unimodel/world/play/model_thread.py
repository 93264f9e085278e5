"""The one thread that owns the models: worlds ask for a step each, and those that wait meanwhile go in one batch."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np

from unimodel.world.play.dream import Dream
from unimodel.world.state import WorldState

Result = TypeVar("Result")
BATCH = 32
"""Most worlds that step at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Dreamed:
    """A next frame: `codes` [rows, columns], `picture` uint8 [height, width, 3], and what the batch took."""

    codes: np.ndarray
    picture: np.ndarray
    seconds: float


@dataclass(frozen=True, slots=True)
class _Step:
    dream: int
    slot: int
    action: int
    passes: int


class ModelThread:
    """Runs on a thread of its own from `start` to `stop`; the methods that wait are for one event loop."""

    def __init__(self, dreams: Sequence[Dream]) -> None:
        self.dreams = tuple(dreams)
        self._requests: SimpleQueue[tuple[_Step | Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the step that runs; what waits is not answered."""
        self._requests.put(None)
        self._thread.join()

    async def step(self, dream: int, slot: int, action: int, passes: int) -> Dreamed:
        """One step of one world. Raises what the model raises; the world has not moved then."""
        return await self._ask(_Step(dream, slot, action, passes))

    async def open(self, dream: int, past: Callable[[Dream], WorldState]) -> int:
        """A slot for a world with a past, as the dream reads it."""
        return await self.call(lambda: self.dreams[dream].open(past(self.dreams[dream])))

    def close(self, dream: int, slot: int) -> None:
        """Forgets a world, in its turn."""
        self._requests.put((lambda: self.dreams[dream].close(slot), asyncio.get_running_loop().create_future()))

    async def call(self, function: Callable[[], Result]) -> Result:
        """Whatever else needs a model."""
        return await self._ask(function)

    async def _ask(self, request: _Step | Callable[[], Any]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._requests.put((request, future))
        return await future

    def _run(self) -> None:
        while True:
            waiting = [self._requests.get()]
            while len(waiting) < BATCH:
                try:
                    waiting.append(self._requests.get_nowait())
                except Empty:
                    break
            if None in waiting:
                return
            steps: dict[tuple[int, int], list[tuple[_Step, asyncio.Future[Any]]]] = {}
            calls = []
            for request, future in (entry for entry in waiting if entry is not None):
                if isinstance(request, _Step):
                    steps.setdefault((request.dream, request.passes), []).append((request, future))
                else:
                    calls.append((request, future))
            for (dream, passes), batch in steps.items():
                _answer([future for _, future in batch], lambda d=dream, p=passes, b=batch: self._step(d, p, b))
            for call, future in calls:  # after the steps: a world that is closed while it steps is still there
                _answer([future], lambda call=call: [call()])

    def _step(self, number: int, passes: int, batch: list[tuple[_Step, asyncio.Future[Any]]]) -> list[Dreamed]:
        began, dream = time.monotonic(), self.dreams[number]
        codes = dream.step([step.slot for step, _ in batch], [step.action for step, _ in batch], passes)
        pictures = dream.pictures(codes)
        seconds = time.monotonic() - began
        return [Dreamed(code, picture, seconds) for code, picture in zip(codes, pictures, strict=True)]


def _answer(futures: list[asyncio.Future[Any]], work: Callable[[], list[Any]]) -> None:
    """Does the work and hands each future its part, or all of them what went wrong."""
    try:
        results, failure = work(), None
    except Exception as error:  # told to those who asked; the thread lives on
        results, failure = [None] * len(futures), error
    for future, result in zip(futures, results, strict=True):
        future.get_loop().call_soon_threadsafe(_settle, future, result, failure)


def _settle(future: asyncio.Future[Any], result: Any, failure: Exception | None) -> None:
    if future.done():  # whoever asked has gone
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)
