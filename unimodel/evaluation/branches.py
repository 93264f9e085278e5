"""Counterfactual actions: from one real state, every action. Does the model's next frame show what that action does?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipelines.sources.episode import Episode
from data_pipelines.sources.families import branch_frames
from data_pipelines.stream.randomness import keyed_generator
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.intervals import over_episodes, ratio
from unimodel.evaluation.table import Row, rounded
from unimodel.tokenizers.latent_action import LatentActionModel
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.rollout import roll_out
from unimodel.world.state import WorldState

HALFWAY = 0.5
ACCURACY = "counterfactual action accuracy"


@dataclass(frozen=True, slots=True)
class Branching:
    """A state of a held-out episode, and what each action does from there.

    Actions with the same real outcome form one class (turning twice as often would otherwise count twice); each class
    is tried once.

    step      of the episode: `world` has so many actions behind it
    frames    uint8 [actions, height, width, 3]: the real next frames
    classes   int [actions]
    told      int [actions]: the action token that says so to the model; where actions are inferred, that of the
              outcome. Of several agents [actions, agents]: one tries, the others do what they did
    tried     int [classes]: one action of each class, drawn by the episode's key
    agent     the one who tries
    """

    step: int
    world: WorldState
    frames: np.ndarray
    classes: np.ndarray
    told: np.ndarray
    tried: np.ndarray
    agent: int = 0

    @property
    def chance(self) -> float:
        return 1 / len(self.tried)


@dataclass(frozen=True, slots=True)
class Branched:
    """The model's next frames of a state, one per class: `codes` [classes, rows, columns], `pictures` uint8 [classes,
    height, width, 3]."""

    state: Branching
    codes: np.ndarray
    pictures: np.ndarray


def branching_state(
    episode: Episode,
    tokens: TokenisedEpisode,
    image_size: int,
    inferring: LatentActionModel | None = None,
    agent: int = 0,
) -> Branching:
    """A state of the episode, drawn by its key, in which an agent tries every action; `inferring` tells the actions
    where the model knows no real ones.

    Raises ValueError when its environment cannot be brought there.
    """
    if not episode.environment:
        raise ValueError("the episodes come from elsewhere: no environment tells what else could have happened")
    rng = keyed_generator("evaluate branches", episode.key)
    at = int(rng.integers(1, episode.num_steps)) if episode.num_steps > 1 else 0
    before = episode.actions[:at].tolist()
    environment, seed, view = episode.environment, episode.seed, episode.view_cells
    actions = possible_actions(episode, at, agent)
    frames = branch_frames(environment, seed, before, image_size, episode.events, view, actions.tolist())
    classes = np.unique(frames.reshape(len(frames), -1), axis=0, return_inverse=True)[1].ravel()
    tried = [int(rng.choice(np.flatnonzero(classes == kind))) for kind in range(classes.max() + 1)]
    world = WorldState(tokens.mission, tokens.frames[: at + 1], tokens.actions[:at], tokens.events)
    told = actions if inferring is None else inferring.codes_to(episode.frames[at], frames)
    return Branching(at, world, frames, classes, told, np.array(tried), agent)


def possible_actions(episode: Episode, step: int, agent: int) -> np.ndarray:
    """int [actions], or [actions, agents]: what an agent could have done in a step in which the others did what they
    did."""
    every = np.arange(episode.num_actions)
    if episode.num_agents == 1:
        return every
    joint = np.tile(episode.actions[step], (len(every), 1))
    joint[:, agent] = every
    return joint


def branch_held_out(loaded: LoadedRun, held_out: HeldOut) -> list[Branched]:
    """The states of `branching_states`, and what the model makes of them. Raises ValueError as it does."""
    return step_branches(loaded, branching_states(loaded, held_out))


def branching_states(loaded: LoadedRun, held_out: HeldOut) -> list[Branching]:
    """A state of each of the first held-out episodes in whose state actions differ at all, `evaluation.branch_states`
    of them; in episodes of several agents each of these tries.

    Raises ValueError when an environment cannot be brought to a state again.
    """
    size, most = loaded.config.data.recording.image_size, loaded.config.evaluation.branch_states
    states: list[Branching] = []
    both = zip(held_out.episodes, held_out.tokens, strict=True)
    for episode, tokens, agent in ((*one, agent) for one in both for agent in range(one[0].num_agents)):
        if len(states) == most:
            break
        state = branching_state(episode, tokens, size, loaded.bundle.only_latent_actions, agent)
        if len(state.tried) > 1:
            states.append(state)
    return states


def step_branches(loaded: LoadedRun, states: Sequence[Branching]) -> list[Branched]:
    """The model's next frame of every state and class."""
    if not states:
        return []
    worlds = [state.world for state in states for _ in state.tried]
    stepped = roll_out(loaded, worlds, np.concatenate([state.told[state.tried] for state in states])[:, None])
    codes = np.stack([world.frames[-1] for world in stepped])
    stops = np.cumsum([len(state.tried) for state in states])[:-1]
    decoded = np.split(loaded.bundle.image.decode(codes), stops)
    return [Branched(*parts) for parts in zip(states, np.split(codes, stops), decoded, strict=True)]


def evaluate_branches(branched: Sequence[Branched], stage: str) -> tuple[list[Row], list[Row], list[dict[str, Any]]]:
    """CBA = P(class(argmin_b d(made frame of action a, real frame of action b)) = class(a)), d the squared error.

    The row of the table; its way from chance to 1 ((accuracy - chance) / (1 - chance); 0.5 is halfway) and the accuracy
    of each of several agents for the details; and the accuracy by number of classes. Intervals are over states. No
    judge is learnt, so none can be fooled.
    """
    right = np.array([obeyed(one).sum() for one in branched])
    tried = np.array([len(one.state.tried) for one in branched])
    accuracy = over_episodes(ratio, right, tried)
    chance = len(branched) / float(tried.sum())  # each class of a state is tried once
    way = over_episodes(way_from_chance, right, tried)
    name, questions = ACCURACY, int(tried.sum())
    row = Row(name, stage, accuracy.value, chance, "chance", questions, interval=accuracy.interval)
    normalised = Row(
        "counterfactual actions, way from chance to 1",
        stage,
        way.value,
        0.0,
        "chance",
        questions,
        required=HALFWAY,
        interval=way.interval,
    )
    several = branched[0].state.told.ndim == 2
    by_agent = _by_agent(right, tried, [one.state.agent for one in branched], stage) if several else []
    return [row], [normalised, *by_agent], _by_class_count(right, tried)


def obeyed(one: Branched) -> np.ndarray:
    """bool [classes]: whether the real frame nearest to the made one is of the class that was tried."""
    real = one.state.frames.astype(np.float64)
    errors = np.stack([np.mean((real - made) ** 2, axis=(1, 2, 3)) for made in one.pictures])
    return one.state.classes[errors.argmin(axis=1)] == one.state.classes[one.state.tried]


def way_from_chance(right: np.ndarray, tried: np.ndarray, axis: int = -1) -> np.ndarray:
    """(accuracy - chance) / (1 - chance) of right answers and classes per state."""
    total = tried.sum(axis=axis)
    chance = np.count_nonzero(tried, axis=axis) / total
    return (right.sum(axis=axis) / total - chance) / (1 - chance)


def _by_agent(right: np.ndarray, tried: np.ndarray, agents: Sequence[int], stage: str) -> list[Row]:
    """Accuracy apart for each agent that tried."""
    rows = []
    for agent in sorted(set(agents)):
        here = np.array(agents) == agent
        accuracy, questions = over_episodes(ratio, right[here], tried[here]), int(tried[here].sum())
        name, chance = f"{ACCURACY}, agent {agent}", float(here.sum() / questions)
        rows.append(Row(name, stage, accuracy.value, chance, "chance", questions, interval=accuracy.interval))
    return rows


def _by_class_count(right: np.ndarray, tried: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy apart for states in which so many actions differ."""
    groups = []
    for classes in np.unique(tried).tolist():
        here = tried == classes
        accuracy = over_episodes(ratio, right[here], tried[here])
        groups.append(
            {
                "classes": classes,
                "states": int(here.sum()),
                "accuracy": round(accuracy.value, 4),
                "interval": None if accuracy.interval is None else [rounded(end) for end in accuracy.interval],
                "chance": round(1 / classes, 4),
                "halfway": round((1 + 1 / classes) / 2, 4),
            }
        )
    return groups
