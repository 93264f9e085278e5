"""Programs of the server that are agents of a shared world, beside the people in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from data_pipelines.stream.randomness import keyed_generator
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.agent import Agent
from unimodel.world.sessions.living import LivingWorld

RANDOM, POLICY = "random", "policy"


class Bot(Protocol):
    """Acts in every tick; what is drawn follows from the world's seed and the tick."""

    def act(self, world: LivingWorld, seat: int) -> int:
        """On the model's thread: what agent `seat` does next."""
        ...


class RandomBot:
    """Does anything, with equal chances."""

    def act(self, world: LivingWorld, seat: int) -> int:
        """An action."""
        return int(
            keyed_generator(RANDOM, world.past.birth.seed, world.tick, seat).integers(len(world.past.birth.actions))
        )


class PolicyBot:
    """Does what the recorded players would have done, as the run's policy tells. Raises ValueError when it has none."""

    def __init__(self, loaded: LoadedRun) -> None:
        self._agent = Agent(loaded)

    def act(self, world: LivingWorld, seat: int) -> int:
        """An action, as likely as the policy says."""
        chances = self._agent.probabilities([world.state()])[0][seat]
        rng = keyed_generator(POLICY, world.past.birth.seed, world.tick, seat)
        return int(rng.choice(len(chances), p=chances / chances.sum()))


def bots_of(loaded: LoadedRun, names: Sequence[str], num_agents: int) -> Mapping[str, Bot]:
    """By their names in the world. Raises ValueError for a kind that there is not, for more than there are agents, and
    in a world of one agent."""
    if names and num_agents == 1:
        raise ValueError("--bot is an agent of a world of several, and this one has one: let a program join it")
    if len(names) > num_agents:
        raise ValueError(f"this world has {num_agents} agents, and {len(names)} bots are asked for")
    bots: dict[str, Bot] = {}
    for kind in names:
        if kind not in (RANDOM, POLICY):
            raise ValueError(f"there is no bot '{kind}': --bot is {RANDOM} or {POLICY}")
        others = sum(name.split("-")[0] == kind for name in bots)
        bots[f"{kind}-{others}" if others else kind] = RandomBot() if kind == RANDOM else PolicyBot(loaded)
    return bots
