"""The live worlds of a trained run, and many of them rolled forward at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unimodel.sampling.fill import FillSettings
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.state import WorldState
from unimodel.world.worlds import Worlds

WORLDS_AT_ONCE = 32


def worlds_of(loaded: LoadedRun, settings: FillSettings | None = None) -> Worlds:
    """Worlds over the window that the run's stage 3 trained on. Raises ValueError for a stage without interaction."""
    entry = loaded.config.stages[loaded.stage].world
    if entry is None:
        raise ValueError(f"stage '{loaded.stage}' was not trained on interaction sequences: it cannot step a world")
    settings = settings or FillSettings(steps=loaded.config.evaluation.sampling_steps)
    bundle = loaded.bundle
    return Worlds(loaded.backbone, bundle.builder, bundle.pad_id, entry.frames, settings, has_sink=entry.sink)


def roll_out(loaded: LoadedRun, states: Sequence[WorldState], actions: np.ndarray, seed: int = 0) -> list[WorldState]:
    """Each state after its row of `actions` [states, steps]; world i draws from `seed` + i."""
    worlds = worlds_of(loaded)
    rolled: list[WorldState] = []
    for start in range(0, len(states), WORLDS_AT_ONCE):
        some = slice(start, start + WORLDS_AT_ONCE)
        slots = [worlds.open(state, seed + start + number) for number, state in enumerate(states[some])]
        for step in range(actions.shape[1]):
            worlds.step(slots, actions[some, step].tolist())
        rolled += [worlds.state(slot) for slot in slots]
        for slot in slots:
            worlds.close(slot)
    return rolled
