"""Can the action be read from the model's own frames as well as from real ones?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unimodel.batch import TokenSequence
from unimodel.evaluation.branches import Branched, Branching
from unimodel.evaluation.intervals import over_episodes, ratio
from unimodel.evaluation.predictions import ask, predict, window
from unimodel.evaluation.table import Row
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.training.loaded_run import LoadedRun
from unimodel.vocabulary import Modality


def evaluate_actions_read(loaded: LoadedRun, branched: Sequence[Branched]) -> tuple[list[Row], list[Row]]:
    """AF = (accuracy on made frames - chance) / (accuracy on real frames - chance), over *effective* actions.

    The reader is the model's own inverse dynamics, which was taught on real frames: it sees a state and the next frame.
    An answer counts by its class of actions with the same real outcome: what was done where nothing moves, nobody can
    tell (CoinRun's 15 actions have 3.8 outcomes). Of several agents one is asked for, and what the others did is told.
    1: the action shows as well as in reality; 0: not at all.

    AF for the table, where the reader reads real frames better than by chance at all; the accuracy on made frames with
    that on real ones as its ceiling for the details. Intervals are over states.
    """
    real = [loaded.bundle.image.encode(one.state.frames[one.state.tried]) for one in branched]
    made = [one.codes for one in branched]
    right = [count_right(branched, read_actions(loaded, branched, codes)) for codes in (made, real)]
    return action_rows(right[0], right[1], np.array([len(one.state.tried) for one in branched]), loaded.stage)


def action_rows(made: np.ndarray, real: np.ndarray, tried: np.ndarray, stage: str) -> tuple[list[Row], list[Row]]:
    """Rows from right answers on made and real frames and classes tried, each per state [states]."""
    questions, chance = int(tried.sum()), len(tried) / float(tried.sum())
    accuracy = over_episodes(ratio, made, tried)
    ceiling = float(real.sum() / tried.sum())
    details = [
        Row(
            "inverse dynamics accuracy, own frames",
            stage,
            accuracy.value,
            chance,
            "chance",
            questions,
            interval=accuracy.interval,
            ceiling=ceiling,
        )
    ]
    if ceiling <= chance:
        return [], details
    followed = over_episodes(action_following, made, real, tried)
    name = "actions read from own frames (1: as from real ones)"
    return [Row(name, stage, followed.value, 0.0, "chance", questions, interval=followed.interval)], details


def action_following(made: np.ndarray, real: np.ndarray, tried: np.ndarray, axis: int = -1) -> np.ndarray:
    """(accuracy on made frames - chance) / (accuracy on real frames - chance), from numbers per state."""
    by_chance = np.count_nonzero(tried, axis=axis)
    return (made.sum(axis=axis) - by_chance) / (real.sum(axis=axis) - by_chance)


def read_actions(loaded: LoadedRun, branched: Sequence[Branched], frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """int [classes] for every state: the likeliest of its actions, from the state and each of `frames` [classes, rows,
    columns]."""
    stage, vocabulary = loaded.config.stages[loaded.stage], loaded.bundle.vocabulary
    has_sink = any(e.sink for e in stage.mixture if stage.objectives[e.objective].kind == "inverse_dynamics")
    asked = []
    for one, codes in zip(branched, frames, strict=True):
        for frame in codes:
            episode, last = _stepped(one.state, frame), len(one.state.world.frames) - 1
            sequence = window(loaded.bundle.builder, episode, last, 2, has_sink=has_sink)
            asked.append(ask(sequence, _acts(sequence, one.state.agent), vocabulary))
    first = vocabulary.range_of(Modality.ACTION).start
    logits = predict(loaded, asked)
    return [
        np.array([int(next(logits)[0, first : first + len(one.state.classes)].argmax()) for _ in codes])
        for one, codes in zip(branched, frames, strict=True)
    ]


def count_right(branched: Sequence[Branched], answers: Sequence[np.ndarray]) -> np.ndarray:
    """int [states]: answers of the class that was tried."""
    return np.array(
        [
            (one.state.classes[answer] == one.state.classes[one.state.tried]).sum()
            for one, answer in zip(branched, answers, strict=True)
        ]
    )


def _acts(sequence: TokenSequence, agent: int) -> np.ndarray:
    """bool [n]: the actions of an agent."""
    acts = np.zeros(len(sequence), dtype=np.bool_)
    acts[[span.start for span in sequence.spans if span.modality is Modality.ACTION and span.agent == agent]] = True
    return acts


def _stepped(state: Branching, frame: np.ndarray) -> TokenisedEpisode:
    """The world with one more frame, after some action of the agent that tries: which one will be hidden."""
    world = state.world
    after = world.stepped(state.told[0], frame)
    nothing = np.zeros(len(after.actions))
    silence = np.zeros((len(after.frames), 0), dtype=np.int64)
    return TokenisedEpisode(
        "step", after.frames, silence, after.actions, nothing, nothing > 0, world.mission, (), world.events
    )
