"""A trained run as the one who plays when episodes are recorded: what it learns from next, it has played itself.

Worker processes import this module for every recording, so torch is imported only where a run plays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipelines.sources.episode import UNKNOWN_ACTION
from data_pipelines.sources.play import Play, Policy
from data_pipelines.sources.policies import scripted_policy
from data_pipelines.sources.roles import society_of
from data_pipelines.sources.world import Action
from unimodel.run_folder import RunFolder
from unimodel.training.finished import finished_stages

if TYPE_CHECKING:
    from unimodel.training.loaded_run import LoadedRun
    from unimodel.world.state import WorldState

PLAYS_AT_ONCE = 32


def load_policy(settings: Mapping[str, Any]) -> Policy:
    """The policy of a recording's settings, scripted or of a run.

    Raises ValueError for settings that cannot be used and for a run without a policy, FileNotFoundError for no run.
    """
    if settings["kind"] != "run":
        return scripted_policy(settings)
    return _run_player(settings["run"], settings.get("greedy", False))


@lru_cache(maxsize=4)
def _run_player(path: str, greedy: bool) -> Policy:
    import torch

    from unimodel.training.loaded_run import load_run

    torch.set_num_threads(1)  # recording takes a process for each core, and sums depend on how many threads make them
    return RunPlayer(load_run(Path(path), _stage_with_policy(Path(path))), greedy=greedy)


def _stage_with_policy(path: Path) -> str:
    run = RunFolder(path)
    names = [name for name, stage in run.config().ordered_stages if "policy" in stage.skills]
    finished = finished_stages(run, names)
    if not finished:
        raise ValueError(
            f"{path} cannot play: none of its finished stages has learnt a policy; give an entry of a stage the "
            "objective `kind: policy` and train it"
        )
    return list(finished)[-1]


class RunPlayer:
    """Sees what a recording shows, in the tokens of the run, and acts as its policy does.

    Raises ValueError when called for a world with other actions than those of the run.
    """

    plays_at_once = PLAYS_AT_ONCE

    def __init__(self, loaded: LoadedRun, *, greedy: bool) -> None:
        from unimodel.world.agent import Agent

        self._path, self._bundle, self._agent, self._greedy = loaded.run.path, loaded.bundle, Agent(loaded), greedy

    def __call__(self, plays: Sequence[Play]) -> list[Action]:
        for play in plays:
            if play.world.num_actions != self._agent.num_actions:
                raise ValueError(
                    f"{self._path} has learnt to act in a world of {self._agent.num_actions} actions, and "
                    f"{play.world.environment} has {play.world.num_actions}"
                )
            play.memory = self._seen(play)
        chances = self._agent.probabilities([play.memory for play in plays])
        if plays[0].world.num_agents == 1:
            return [self._drawn(play, chance) for play, chance in zip(plays, chances, strict=True)]
        return [
            tuple(
                self._drawn(play, chance) if going else UNKNOWN_ACTION
                for chance, going in zip(each, society_of(play.world, "run").going, strict=True)
            )
            for play, each in zip(plays, chances, strict=True)
        ]

    def _drawn(self, play: Play, chance: np.ndarray) -> int:
        """As likely as `chance` [actions] says, or the likeliest."""
        if self._greedy:
            return int(chance.argmax())
        return int(play.rng.choice(len(chance), p=chance / chance.sum()))

    def _seen(self, play: Play) -> WorldState:
        """All of the episode so far; only what is new is encoded."""
        from unimodel.tokenizers.text import encode_text
        from unimodel.world.state import WorldState

        codes = self._bundle.image.encode(play.moments[-1].frame[None])
        if play.memory is None:
            mission = encode_text(self._bundle.text, play.world.simulator.mission)
            several = (play.world.num_agents,) if play.world.num_agents > 1 else ()
            state = WorldState(mission, codes, np.zeros((0, *several), dtype=np.int64))
        else:
            state = play.memory.stepped(play.actions[-1], codes[0])
        told = len(state.events)
        for event in play.events[told:]:
            state = state.with_event(encode_text(self._bundle.text, event.text))
        return state
