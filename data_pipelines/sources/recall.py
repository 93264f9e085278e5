"""A cue is shown, noise follows, the cue comes back when it is asked for: `data_pipelines.sources.recall:Recall-v0`.

What lies between cue and recall says nothing about the cue, so whoever foretells the recalled picture has remembered
it. The plainest of delayed-recall tasks, in four image codes a frame. Every frame after the first is noise unless the
action before it was RECALL.

`RecallTiles-v0` is the same of MiniGrid's tiles: for a model of MiniGrid, whose image tokenizer has codes for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np

ENVIRONMENT = f"{__name__}:Recall-v0"
BLOCK = 8
"""Pixels: a block is a patch of an image tokenizer."""
SIZE = 2 * BLOCK
ACTIONS = ("wait", "recall")
RECALL = ACTIONS.index("recall")
CUE_PLACE = (0, 0, 0)
NUM_PATTERNS = 4
COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan", "orange", "white")
SHAPES = ("square", "disc", "cross", "ring")
RGB = {
    "red": (230, 30, 30),
    "green": (30, 190, 30),
    "blue": (40, 70, 255),
    "yellow": (240, 230, 30),
    "magenta": (220, 40, 220),
    "cyan": (30, 220, 220),
    "orange": (255, 140, 0),
    "white": (255, 255, 255),
}
CUES = tuple(f"{colour} {SHAPES[number % len(SHAPES)]}" for number, colour in enumerate(COLOURS))
"""What is to be remembered: one of them an episode."""


class Pictures(NamedTuple):
    """What is seen: `cues`, uint8 [cues, SIZE, SIZE, 3] and their names, and `patterns`, uint8 [patterns, BLOCK, BLOCK,
    3], of which noise is made."""

    names: tuple[str, ...]
    cues: np.ndarray
    patterns: np.ndarray


class RecallState(NamedTuple):
    """Where an episode stands."""

    cue: int
    picture: np.ndarray
    steps: int
    pose: tuple[int, int, int]
    chance: Mapping[str, Any]


class Recall(gymnasium.Env[np.ndarray, np.int64]):
    """An endless episode with one cue. Noise is made of blocks, each one of a few patterns: cheap to tell for an image
    tokenizer, and not to be foretold."""

    observation_space = gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(len(ACTIONS))
    mission = "remember the first picture"

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self.cue, self._picture, self._steps = 0, pictures.cues[0], 0
        self.pose = CUE_PLACE
        """Which picture it looks at: the cue, or a noise that nobody sees twice."""

    def get_action_meanings(self) -> tuple[str, ...]:
        """Names of the actions, in their order."""
        return ACTIONS

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Shows the cue of the seed."""
        super().reset(seed=seed)
        self.cue = int(self.np_random.integers(len(self._pictures.names)))
        self._picture, self._steps, self.pose = self._pictures.cues[self.cue], 0, CUE_PLACE
        return self._picture, {"cue": self._pictures.names[self.cue]}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Noise is drawn at every step, so that it does not tell whether anybody recalled."""
        noise = self._pictures.patterns[self.np_random.integers(NUM_PATTERNS, size=(2, 2))]
        noise = noise.transpose(0, 2, 1, 3, 4).reshape(SIZE, SIZE, 3)
        self._picture = self._pictures.cues[self.cue] if action == RECALL else noise
        self._steps += 1
        self.pose = CUE_PLACE if action == RECALL else (self._steps, 0, 0)
        return self._picture, 0.0, False, False, {}

    def snapshot(self) -> RecallState:
        """The whole world, to come back to."""
        return RecallState(self.cue, self._picture, self._steps, self.pose, self.np_random.bit_generator.state)

    def restore(self, state: RecallState) -> None:
        """Exactly back, as often as wanted."""
        self.cue, self._picture, self._steps, self.pose, self.np_random.bit_generator.state = state


def cue_picture(cue: int) -> np.ndarray:
    """uint8 [SIZE, SIZE, 3]: the shape of CUES[cue] on black."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    radius = np.hypot(x, y)
    masks = {
        "square": np.maximum(abs(x), abs(y)) < 5,
        "disc": radius < 6.6,
        "cross": (np.minimum(abs(x), abs(y)) < 2) & (np.maximum(abs(x), abs(y)) < 7),
        "ring": (radius < 7.2) & (radius > 4),
    }
    colour, shape = CUES[cue].split()
    return masks[shape][..., None] * np.array(RGB[colour], np.uint8)


def _patterns() -> np.ndarray:
    """uint8 [NUM_PATTERNS, BLOCK, BLOCK, 3]: the same grey noise for everybody."""
    grey = np.random.default_rng(0).integers(2, size=(NUM_PATTERNS, BLOCK // 2, BLOCK // 2)) * 96 + 48
    return grey.repeat(2, axis=1).repeat(2, axis=2)[..., None].repeat(3, axis=3).astype(np.uint8)


PATTERNS = _patterns()


def recall_of_shapes() -> Recall:
    """Coloured shapes in grey noise."""
    return Recall(Pictures(CUES, np.stack([cue_picture(cue) for cue in range(len(CUES))]), PATTERNS))


def recall_of_tiles() -> Recall:
    """Four of one of BabyAI's things, and noise of floor, wall and agents, as MiniGrid draws them."""
    from minigrid.core.constants import COLOR_NAMES
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import Ball, Box, Key, Wall

    things = {f"{colour} {kind.__name__.lower()}": kind(colour) for colour in COLOR_NAMES for kind in (Ball, Box, Key)}
    cues = [np.tile(Grid.render_tile(thing, tile_size=BLOCK), (2, 2, 1)) for thing in things.values()]
    grounds = [Grid.render_tile(ground, tile_size=BLOCK) for ground in (None, Wall())]
    agents = [Grid.render_tile(None, agent_dir=direction, tile_size=BLOCK) for direction in (0, 1)]
    # Fractions are cut off, as when MiniGrid puts a tile into a picture.
    return Recall(
        Pictures(tuple(things), np.stack(cues).astype(np.uint8), np.stack([*grounds, *agents]).astype(np.uint8))
    )


gymnasium.register("Recall-v0", f"{__name__}:recall_of_shapes")
gymnasium.register("RecallTiles-v0", f"{__name__}:recall_of_tiles")
