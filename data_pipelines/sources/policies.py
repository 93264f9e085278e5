"""Who plays when episodes are recorded: scripted policies.

A policy is anything that is a `Policy` (`play.py`). A recording names its policies by settings, and a function makes
them of those: `scripted_policy`, or the caller's own for kinds that are not known here, such as a trained model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from data_pipelines.sources.play import Play, Player, Policy
from data_pipelines.sources.policy_settings import (
    BotPolicy,
    EffectivePolicy,
    LookAwayPolicy,
    LoopsPolicy,
    MemoryPolicy,
    RandomPolicy,
    RecallPolicy,
    RolesPolicy,
    ScriptedPolicy,
    StickyPolicy,
    WalkPolicy,
)
from data_pipelines.sources.roles import check_roles, play_roles, play_together
from data_pipelines.sources.scripts import (
    Script,
    follow,
    look_away_script,
    loops_script,
    memory_script,
    recall_script,
    walk_script,
)
from data_pipelines.sources.world import Action, World

LoadPolicy = Callable[[Mapping[str, Any]], Policy]
"""Makes a policy of its settings. Worker processes call it: it is a function at the top of its module."""

_SCRIPTED: TypeAdapter[ScriptedPolicy] = TypeAdapter(ScriptedPolicy)


def scripted_policy(settings: Mapping[str, Any]) -> Policy:
    """The policy of these settings. Raises ValueError for another kind or a setting that it does not have."""
    match policy := _validated(settings):
        case RolesPolicy():
            return OneByOne(partial(play_roles, policy=policy))
        case BotPolicy():
            return OneByOne(partial(_assisted, random_action_fraction=policy.random_action_fraction))
        case EffectivePolicy():
            return OneByOne(partial(_effective, idle_fraction=policy.idle_fraction))
        case StickyPolicy():
            return OneByOne(partial(_sticky, repeat_fraction=policy.repeat_fraction))
        case RandomPolicy():
            return OneByOne(partial(_sticky, repeat_fraction=0.0))
        case RecallPolicy():
            return _follower(partial(recall_script, policy=policy))
        case MemoryPolicy():
            return _follower(partial(memory_script, policy=policy))
        case WalkPolicy():
            return _follower(partial(walk_script, policy=policy))
        case LoopsPolicy():
            return _follower(partial(loops_script, policy=policy))
        case LookAwayPolicy():
            return _follower(partial(look_away_script, policy=policy))


def _follower(script: Script) -> Policy:
    return OneByOne(partial(follow, script=script))


def load_players(policies: Sequence[Mapping[str, Any]], load_policy: LoadPolicy) -> list[Player]:
    """Whoever plays in a recording. Raises ValueError for settings that cannot be used."""
    if not policies:
        raise ValueError("policies is empty: nobody would play")
    return [
        Player(settings.get("name") or settings["kind"], settings.get("share", 1.0), load_policy(settings))
        for settings in policies
    ]


class OneByOne:
    """A policy that looks at every episode by itself."""

    plays_at_once = 1

    def __init__(self, choose: Callable[[Play], Action]) -> None:
        self._choose = choose

    def __call__(self, plays: Sequence[Play]) -> list[Action]:
        return [self._choose(play) for play in plays]


def check_policies(policies: Sequence[Mapping[str, Any]], world: World) -> None:
    """Raises ValueError for scripts that cannot play in this world."""
    kinds = {policy["kind"] for policy in policies}
    if "bot" in kinds and world.simulator.bot() is None:
        raise ValueError(no_bot(world.environment))
    if "effective" in kinds and (not world.restores or world.num_agents > 1):
        because = "cannot be set back" if not world.restores else "has several agents"
        raise ValueError(
            f"the policy effective tries actions and takes them back, and {world.environment} {because}: "
            "choose random or sticky"
        )
    for settings in policies:
        if settings["kind"] == "roles":
            policy = _validated(settings)
            assert isinstance(policy, RolesPolicy)
            check_roles(world, policy)


def _validated(settings: Mapping[str, Any]) -> ScriptedPolicy:
    try:
        return _SCRIPTED.validate_json(json.dumps(dict(settings)))  # in which a list may be a tuple
    except ValidationError as error:
        raise ValueError(f"policy {dict(settings)}: {error.errors()[0]['msg']}") from None


def _sticky(play: Play, repeat_fraction: float) -> Action:
    """Repeats the last action with a probability, else takes a random one."""
    if play.world.num_agents > 1:
        return play_together(play, repeat_fraction)
    chance, drawn = play.rng.random(), int(play.rng.integers(play.world.num_actions))
    return play.actions[-1] if chance < repeat_fraction and play.actions else drawn


def _effective(play: Play, idle_fraction: float) -> int:
    """Tries random actions until one changes the picture, at most once each; of those that do not, a share is taken.

    Raises ValueError when the environment cannot be set back.
    """
    chance, order = play.rng.random(), play.rng.permutation(play.world.num_actions).tolist()
    if chance < idle_fraction:
        return order[0]
    before, frame = play.world.snapshot(), play.world.frame
    for action in order:
        changes = not np.array_equal(play.world.step(action).frame, frame)
        play.world.restore(before)
        if changes:
            return action
    return order[0]


def _assisted(play: Play, random_action_fraction: float) -> Action:
    """Takes the bot's advice, except for a share of random actions and where the bot has lost its plan.

    Raises ValueError when the environment has no bot.
    """
    if play.memory is None:
        play.memory = play.world.simulator.bot()
    if play.memory is None:
        raise ValueError(no_bot(play.world.environment))
    chance, drawn = play.rng.random(), int(play.rng.integers(play.world.num_actions))
    # The bot is asked at every step, also when its advice is not taken: it follows what it sees.
    advice = play.memory(play.actions[-1] if play.actions else None)
    return drawn if chance < random_action_fraction or advice is None else advice


def no_bot(environment: str) -> str:
    """What to say when somebody wants one."""
    return (
        f"{environment} has no scripted bot (BabyAI levels do): choose the policies random or sticky, or an "
        "environment that has one"
    )
