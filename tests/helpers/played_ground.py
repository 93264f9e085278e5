"""A playground of a run for the length of a story, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from unimodel.training.loaded_run import LoadedRun
from unimodel.world.play.playground import Playground, open_playground
from unimodel.world.play.settings import Limits, PlaySettings

Result = TypeVar("Result")
LEFT, RIGHT, FORWARD, DONE = 0, 1, 2, 6
PASSES = 2


def played(run: LoadedRun, story: Callable[[Playground], Awaitable[Result]], **limits: Any) -> Result:
    """Runs a story on a playground of its own."""

    async def whole() -> Result:
        ground = open_playground([run], PlaySettings(passes=PASSES, limits=Limits(**limits)))
        try:
            return await story(ground)
        finally:
            ground.close()

    return asyncio.run(whole())
