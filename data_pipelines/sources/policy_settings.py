"""What a recording's settings may say of who plays; `policies.py` makes it of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from data_pipelines.settings import Fraction, PositiveFloat, Settings


class _PolicySettings(Settings):
    share: PositiveFloat = 1.0
    """Episodes that it plays, per episode of a policy of share 1; drawn for every episode."""
    name: str | None = None
    """How episodes call it; its kind otherwise."""


class RandomPolicy(_PolicySettings):
    """A uniformly random action every step."""

    kind: Literal["random"]


class StickyPolicy(_PolicySettings):
    """Random actions that are kept: a new one every step moves little."""

    kind: Literal["sticky"]
    repeat_fraction: Fraction = 0.5
    """How often the last action is repeated instead of a random one taken."""


class EffectivePolicy(_PolicySettings):
    """Random actions, most of which change something: one that would leave the picture as it is, is drawn anew. Opens
    doors and picks things up far more often. For environments that can be set back."""

    kind: Literal["effective"]
    idle_fraction: Fraction = 0.3
    """How often the first draw is taken, whatever it does: what has no effect must be seen too."""


class BotPolicy(_PolicySettings):
    """The environment's own bot (BabyAI levels have one)."""

    kind: Literal["bot"]
    random_action_fraction: Fraction = 0.6
    """Share of steps that take a random action instead of the bot's, for coverage of all actions."""


class RolesPolicy(_PolicySettings):
    """Several agents, each by a script of their environment's own; `random` is one in every environment."""

    kind: Literal["roles"]
    roles: Annotated[tuple[str, ...], Field(min_length=1)]
    """Of agent 0, 1, ...; from the beginning again where there are more agents."""
    random_action_fraction: Fraction = 0.2
    """Share of an agent's steps that take a random action instead."""
    leave_fraction: Fraction = 0.0
    """How often an agent that is there leaves, in environments that agents may leave."""
    return_fraction: Fraction = 0.25
    """How often one that has left comes back."""


class RunPolicy(_PolicySettings):
    """What a trained run would do: the policy of its last finished stage with an objective `kind: policy`."""

    kind: Literal["run"]
    run: Annotated[str, Field(min_length=1)]
    """The run's folder."""
    greedy: bool = False
    """The likeliest action, instead of one drawn as likely as the policy says."""


ScriptedPolicy = Annotated[
    RandomPolicy | StickyPolicy | EffectivePolicy | BotPolicy | RolesPolicy, Field(discriminator="kind")
]
AnyPolicy = Annotated[
    RandomPolicy | StickyPolicy | EffectivePolicy | BotPolicy | RolesPolicy | RunPolicy, Field(discriminator="kind")
]
"""Scripted, or of a model; who plays for the last is told by `unimodel.world.run_policy`."""
