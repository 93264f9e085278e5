"""There and back again: actions that lead away from a real state and back to it. Does the model come back?

The real environment tells which actions do: one action up to four times, or one and another. A model that stands still
never leaves, so both ends are asked about: where it was farthest away, and where it came back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.sources.episode import Episode
from data_pipelines.sources.families import open_world, replay
from data_pipelines.sources.world import World
from data_pipelines.stream.randomness import keyed_generator
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.rollouts import decode_each
from unimodel.tokenizers.image import ImageTokenizer
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.rollout import roll_out
from unimodel.world.state import WorldState

MOST_REPEATS = 4
LOOPS_PER_STATE = 2
MOST_LOOPS = 40


@dataclass(frozen=True, slots=True)
class Loop:
    """From a state of the episode `key`: `actions` that lead back to it.

    real    uint8 [1 + actions, height, width, 3]: the frames, the first and the last of which are equal
    away    the step after which it is farthest from where it began
    """

    key: str
    state: WorldState
    actions: tuple[int, ...]
    real: np.ndarray
    away: int


@dataclass(frozen=True, slots=True)
class Walked:
    """A loop, and two made frames of it, uint8 [height, width, 3]: `away`, and come `back`."""

    loop: Loop
    away: np.ndarray
    back: np.ndarray

    @property
    def is_closed(self) -> bool:
        """Whether the frame away is nearer to the real one there than to the beginning, and the last one to the
        beginning."""
        home, there = (self.loop.real[at].astype(np.float64) for at in (0, self.loop.away))
        return _error(self.away, there) < _error(self.away, home) and _error(self.back, home) < _error(self.back, there)


def find_loops(loaded: LoadedRun, held_out: HeldOut) -> list[Loop]:
    """Up to MOST_LOOPS, of one state of each of the first held-out episodes.

    Raises ValueError where no environment tells, several agents act or actions are inferred, MissingExtraError when the
    environment is not installed.
    """
    if loaded.bundle.only_latent_actions is not None:
        raise ValueError("the model is told inferred actions alone, and nobody knows which of them lead back")
    size, loops = loaded.config.data.recording.image_size, []
    for episode, tokens in zip(held_out.episodes, held_out.tokens, strict=True):
        if not episode.environment:
            raise ValueError("the episodes come from elsewhere: no environment tells what leads back")
        if episode.num_agents > 1:
            raise ValueError("in a world of several agents no one's actions alone lead back")
        rng = keyed_generator("evaluate loops", episode.key)
        at = int(rng.integers(1, episode.num_steps)) if episode.num_steps > 1 else 0
        state = WorldState(tokens.mission, tokens.frames[: at + 1], tokens.actions[:at], tokens.events)
        found = [Loop(episode.key, state, *one) for one in _loops_from(episode, at, size)]
        chosen = rng.permutation(len(found))[:LOOPS_PER_STATE]
        loops += [found[number] for number in sorted(chosen.tolist())]
        if len(loops) >= MOST_LOOPS:
            break
    return loops[:MOST_LOOPS]


def walk_loops(loaded: LoadedRun, loops: Sequence[Loop]) -> list[Walked]:
    """What the model makes of them."""
    codes: dict[int, np.ndarray] = {}
    for length in {len(loop.actions) for loop in loops}:
        some = [number for number, loop in enumerate(loops) if len(loop.actions) == length]
        actions = np.array([loops[number].actions for number in some])
        rolled = roll_out(loaded, [loops[number].state for number in some], actions)
        for number, world in zip(some, rolled, strict=True):
            codes[number] = world.frames[-length:][[loops[number].away - 1, length - 1]]
    pictures = decode_each(loaded.bundle.image, [codes[number] for number in range(len(loops))]) if loops else []
    return [Walked(loop, *ends) for loop, ends in zip(loops, pictures, strict=True)]


def loops_standing_still(loops: Sequence[Loop], tokenizer: ImageTokenizer) -> list[Walked]:
    """Whatever is done, the frame before."""
    if not loops:
        return []
    pictures = tokenizer.decode(np.stack([loop.state.frames[-1] for loop in loops]))
    return [Walked(loop, picture, picture) for loop, picture in zip(loops, pictures, strict=True)]


def loops_as_they_were(loops: Sequence[Loop], tokenizer: ImageTokenizer) -> list[Walked]:
    """What really happens, as far as the tokenizer shows it."""
    if not loops:
        return []
    pictures = decode_each(tokenizer, [tokenizer.encode(loop.real[[loop.away, -1]]) for loop in loops])
    return [Walked(loop, *ends) for loop, ends in zip(loops, pictures, strict=True)]


def _loops_from(episode: Episode, at: int, size: int) -> Iterator[tuple[tuple[int, ...], np.ndarray, int]]:
    """Actions, frames, and the step that is farthest away, of every word that leads back."""
    events = tuple(event for event in episode.events if event.step < at)
    before = episode.actions[:at].tolist()

    def opened() -> World:
        world = open_world(episode.environment, episode.seed, size, episode.view_cells)
        replay(world, before, events)
        return world

    world = opened()
    kept = world.snapshot() if world.restores else None
    for word in _words(episode.num_actions):
        if kept is not None:
            world.restore(kept)
        else:
            world.close()
            world = opened()
        frames = [world.frame]
        for action in word:
            if world.over:
                break
            frames.append(world.step(action).frame)
            if np.array_equal(frames[-1], frames[0]):
                break
        real = np.stack(frames)
        away = (real.astype(np.float64) - real[0]) ** 2
        away = away.reshape(len(real), -1).mean(axis=1)
        # A word that is back before its end is another, shorter one.
        if len(frames) == len(word) + 1 and away[-1] == 0 and away.max() > 0:
            yield word, real, int(away.argmax())
    world.close()


def _words(num_actions: int) -> Iterator[tuple[int, ...]]:
    for action in range(num_actions):
        yield from ((action,) * times for times in range(2, MOST_REPEATS + 1))
        yield from ((action, other) for other in range(num_actions) if other != action)


def _error(picture: np.ndarray, other: np.ndarray) -> float:
    return float(((picture - other) ** 2).mean())
