"""The orchard as an environment of several agents: `society:data_pipelines.sources.orchard?agents=3`.

Also the example of a world of your own with several agents: a parallel environment as PettingZoo has them (Terry et
al. 2021, arXiv 2009.14471; `reset(seed)`, then `step` with an action of every agent), made by a function `parallel_env`
of its module. What else it has is used: `get_action_meanings()`, `mission`, `caption`, `agent_names` that tell whoever
plays which one they are, `snapshot()` and `restore(state)`, scripted `roles` with `advise(agent, role)`, and
`may_leave` where agents may be absent for a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from data_pipelines.sources.orchard_picture import AGENT_NAMES, PICTURE_PIXELS, draw
from data_pipelines.sources.orchard_roles import ROLES, advise
from data_pipelines.sources.orchard_rules import ABSENT, MOST_AGENTS, Action, Ground, State, advance, begin


class Orchard:
    """2 to 4 agents in a square of 8 x 8 cells; its rules are in `orchard_rules.py`. It has no end.

    Agents without an action are absent in this tick. All see the same picture, the whole square.
    """

    metadata = {"name": "orchard", "render_modes": ["rgb_array"]}
    render_mode = "rgb_array"
    mission = "gather, trade and stay clear of the wasps"
    roles = ROLES
    may_leave = True

    def __init__(self, agents: int = 2) -> None:
        if not 2 <= agents <= MOST_AGENTS:
            raise ValueError(f"an orchard has 2 to {MOST_AGENTS} agents, not {agents}")
        self.possible_agents = [f"agent_{number}" for number in range(agents)]
        self.agent_names = AGENT_NAMES[:agents]
        self.agents = list(self.possible_agents)
        self.ground, self.world = begin(0, agents)

    def observation_space(self, agent: str) -> gymnasium.spaces.Box:
        """The same for all."""
        assert agent in self.possible_agents
        return gymnasium.spaces.Box(0, 255, (PICTURE_PIXELS, PICTURE_PIXELS, 3), np.uint8)

    def action_space(self, agent: str) -> gymnasium.spaces.Discrete:
        """The same for all."""
        assert agent in self.possible_agents
        return gymnasium.spaces.Discrete(len(Action))

    def get_action_meanings(self) -> list[str]:
        """Names of the actions, in their order."""
        return [action.name.lower() for action in Action]

    @property
    def caption(self) -> str:
        """Who is there and what they carry."""
        there = [
            f"{AGENT_NAMES[agent]} {f'carries {hand.name.lower()}' if hand is not None else 'is free'}"
            for agent, (cell, hand) in enumerate(zip(self.world.cells, self.world.hands, strict=True))
            if cell is not None
        ]
        return ", ".join(there) or "nobody is there"

    def reset(self, seed: int = 0, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
        """The orchard of a seed."""
        del options
        self.agents = list(self.possible_agents)
        self.ground, self.world = begin(seed, len(self.possible_agents))
        return self._observations(), {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, int]) -> tuple[dict[str, np.ndarray], dict[str, float], dict, dict, dict]:
        """One tick: observations, rewards, terminations, truncations, infos.

        Raises ValueError for an action or an agent that does not exist; nothing has moved then.
        """
        for agent, action in actions.items():
            if agent not in self.possible_agents or not self.action_space(agent).contains(action):
                raise ValueError(f"{agent} cannot do {action}: the actions of {self.possible_agents} are 0 to 5")
        taken = [int(actions.get(agent, ABSENT)) for agent in self.possible_agents]
        self.world, rewards = advance(self.ground, self.world, taken)
        never = dict.fromkeys(self.agents, False)
        got = dict(zip(self.possible_agents, rewards, strict=True))
        return self._observations(), got, never, dict(never), {agent: {} for agent in self.agents}

    def render(self) -> np.ndarray:
        """uint8 [64, 64, 3]"""
        return draw(self.ground, self.world)

    def advise(self, agent: str, role: str) -> int:
        """What an agent of a role of `roles` would do next."""
        return int(advise(self.ground, self.world, self.possible_agents.index(agent), role))

    def snapshot(self) -> tuple[Ground, State]:
        """The whole orchard, to come back to."""
        return self.ground, self.world

    def restore(self, state: tuple[Ground, State]) -> None:
        """Exactly back, as often as wanted."""
        self.ground, self.world = state

    def close(self) -> None:
        """Nothing is held."""

    def _observations(self) -> dict[str, np.ndarray]:
        picture = self.render()
        return {agent: picture for agent in self.agents}


def parallel_env(agents: int = 2, render_mode: str = "rgb_array") -> Orchard:
    """An orchard of so many agents. Raises ValueError for another number than 2 to 4."""
    assert render_mode in Orchard.metadata["render_modes"]
    return Orchard(agents)
