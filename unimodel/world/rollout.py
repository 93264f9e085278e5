"""The live worlds of a trained run, and many of them rolled forward at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.shards.reader import ShardReader
from unimodel.config import EPISODES
from unimodel.run_folder import RunFolder
from unimodel.sampling.fill import FillSettings
from unimodel.tokenizers.tokenised_shards import read_shape
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.state import WorldState
from unimodel.world.worlds import Worlds

WORLDS_AT_ONCE = 32


def worlds_of(loaded: LoadedRun, settings: FillSettings | None = None, compiled_for: int = 0) -> Worlds:
    """Worlds over the window that the run's stage 3 trained on, compiled for so many open ones. Their frames are filled
    as its evaluation does, or by `settings`.

    Raises ValueError for a stage without interaction, and where nobody knows any action.
    """
    entry = loaded.config.stages[loaded.stage].world
    if entry is None:
        raise ValueError(f"stage '{loaded.stage}' was not trained on interaction sequences: it cannot step a world")
    require_actions(loaded)
    settings = settings or FillSettings(steps=loaded.config.evaluation.sampling_steps)
    bundle = loaded.bundle
    return Worlds(
        loaded.backbone,
        bundle.builder,
        bundle.pad_id,
        entry.frames,
        settings,
        has_sink=entry.sink,
        has_outcomes=has_outcomes(loaded.run),
        compiled_for=compiled_for,
    )


def require_actions(loaded: LoadedRun) -> None:
    """Raises ValueError for a run in which nobody knows any action."""
    if not loaded.bundle.vocabulary.action_size:
        raise ValueError(
            f"{loaded.run.path} learnt from films alone, whose actions nobody knows, so there is nothing to do in its "
            "world: switch on tokenizers.latent_action (configs/recipes/films.yaml)"
        )


def require_one_agent(loaded: LoadedRun) -> None:
    """Raises ValueError for a run whose own episodes have several agents."""
    agents = read_shape(ShardReader(loaded.run.tokens_of(EPISODES, "train")), 0).num_agents
    if agents > 1:
        raise ValueError(
            f"{loaded.run.path} learnt a world in which {agents} agents act in every step, and this is for one that "
            "acts alone: play it together with others in a world on disk (`unimodel play RUN --world NAME`, "
            "docs/worlds.md), or step it by `Worlds.step`, which takes an action of each (docs/data.md)"
        )


def has_outcomes(run: RunFolder) -> bool:
    """Whether the run's own episodes tell rewards and ends, as films do not."""
    return read_shape(ShardReader(run.tokens_of(EPISODES, "train")), 0).outcome_tokens > 0


def roll_out(loaded: LoadedRun, states: Sequence[WorldState], actions: np.ndarray, seed: int = 0) -> list[WorldState]:
    """Each state after its row of `actions` [states, steps(, agents)]; world i draws from `seed` + i."""
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
