"""Several agents that play by scripts, each by its own, and may leave for a while."""

from __future__ import annotations

from data_pipelines.sources.episode import UNKNOWN_ACTION
from data_pipelines.sources.play import Play
from data_pipelines.sources.policy_settings import RolesPolicy
from data_pipelines.sources.society import Society
from data_pipelines.sources.world import World

RANDOM = "random"
"""A role in every environment."""


def society_of(world: World, policy: str) -> Society:
    """The agents of a world. Raises ValueError for a world of one."""
    if not isinstance(world.simulator, Society):
        raise ValueError(f"the policy {policy} is for several agents, and {world.environment} has one")
    return world.simulator


def check_roles(world: World, policy: RolesPolicy) -> None:
    """Raises ValueError for a role that the world's agents do not have, or absences where nobody may leave."""
    society = society_of(world, policy.kind)
    if unknown := [role for role in policy.roles if role not in (*society.roles, RANDOM)]:
        raise ValueError(
            f"{world.environment} has no role {unknown[0]!r}: its roles are {', '.join((*society.roles, RANDOM))}"
        )
    if policy.leave_fraction and not society.may_leave:
        raise ValueError(f"agents of {world.environment} cannot leave: set leave_fraction to 0")


def play_roles(play: Play, policy: RolesPolicy) -> tuple[int, ...]:
    """An action of every agent. Its memory is who has left."""
    society = society_of(play.world, policy.kind)
    away: set[int] = set() if play.memory is None else play.memory
    actions = []
    for agent, going in enumerate(society.going):
        chance, change = play.rng.random(2).tolist()
        drawn, role = int(play.rng.integers(society.num_actions)), policy.roles[agent % len(policy.roles)]
        if change < (policy.return_fraction if agent in away else policy.leave_fraction):
            away = away ^ {agent}
        if agent in away or not going:
            actions.append(UNKNOWN_ACTION)
        elif role == RANDOM or chance < policy.random_action_fraction:
            actions.append(drawn)
        else:
            actions.append(society.advise(agent, role))
    play.memory = away
    return tuple(actions)


def play_together(play: Play, repeat_fraction: float) -> tuple[int, ...]:
    """Every agent for itself repeats its last action with a probability, else takes a random one."""
    society = society_of(play.world, "sticky")
    last = play.actions[-1] if play.actions else None
    actions = []
    for agent, going in enumerate(society.going):
        chance, drawn = play.rng.random(), int(play.rng.integers(society.num_actions))
        if isinstance(last, tuple) and chance < repeat_fraction:
            drawn = last[agent]
        actions.append(drawn if going else UNKNOWN_ACTION)
    return tuple(actions)
