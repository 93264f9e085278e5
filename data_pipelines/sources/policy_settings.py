"""What a recording's settings may say of who plays; `policies.py` makes it of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt

from data_pipelines.settings import Fraction, PositiveFloat, Settings


def _check_range(steps: tuple[int, int]) -> tuple[int, int]:
    if steps[0] > steps[1]:
        raise ValueError(f"least and most: {steps[0]} is more than {steps[1]}")
    return steps


Steps = Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(_check_range)]
"""Least and most; drawn between them, each octave as often as another."""


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


class RecallPolicy(_PolicySettings):
    """Asks for the cue now and then. For `data_pipelines.sources.recall:Recall-v0`."""

    kind: Literal["recall"]
    gap_steps: Steps = (2, 100)
    """From one picture of the cue to the next."""


class MemoryPolicy(_PolicySettings):
    """Looks at the cue, wanders where it cannot be seen, and steps on one of the two things. For
    `MiniGrid-MemoryS...-v0`, seen from the agent's eyes."""

    kind: Literal["memory"]
    looks: Steps = (1, 1)
    """How often it goes to look at the cue, and wanders. Who foretells a second look has kept the first."""
    wander_steps: Steps = (1, 128)
    """Between leaving the cue and going for a thing, or back to it; the way there comes on top."""
    right_fraction: Fraction = 0.5
    """How often it takes the right thing: at 0.5 only the cue tells what the reward will be."""


class WalkPolicy(_PolicySettings):
    """Forward most of the time, where that leads on, else turns: comes about, and comes back. For worlds whose first
    actions are left, right and forward: MiniGrid, `rooms`, `balls`, MiniWorld."""

    kind: Literal["walk"]
    forward_fraction: Fraction = 0.75
    """How often it goes on instead of turning, where both can be done."""


class LoopsPolicy(_PolicySettings):
    """From a place over one stop (A-B-A) or several (A-B-C-A) back to it, again and again, with a look around at each:
    every pose there is met again. For grids that tell where one can walk (MiniGrid, `rooms`); in MiniWorld straight on,
    about and back (A-B-A)."""

    kind: Literal["loops"]
    stops: Steps = (1, 2)
    distance_cells: Steps = (3, 12)
    """Of a stop from where the loop begins, as one walks; any other place where there is none so far away. In MiniWorld
    steps."""


class LookAwayPolicy(_PolicySettings):
    """Looks at balls, turns away for a while, and looks again. For `data_pipelines.sources.balls`."""

    kind: Literal["look_away"]
    seen_steps: Steps = (2, 8)
    """Frames with the balls in sight, at a time: two at least tell where they are going."""
    away_steps: Steps = (1, 32)
    """Frames without."""


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
    RandomPolicy
    | StickyPolicy
    | EffectivePolicy
    | BotPolicy
    | RolesPolicy
    | RecallPolicy
    | MemoryPolicy
    | WalkPolicy
    | LoopsPolicy
    | LookAwayPolicy,
    Field(discriminator="kind"),
]
AnyPolicy = Annotated[ScriptedPolicy | RunPolicy, Field(discriminator="kind")]
"""Scripted, or of a model; who plays for the last is told by `unimodel.world.run_policy`."""
