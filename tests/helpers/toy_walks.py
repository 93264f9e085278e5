"""Episodes of small rooms as ids of the toy vocabulary, a code for a cell, with their true poses."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from toy_sequences import VOCABULARY

from data_pipelines.sources.episode import Episode
from data_pipelines.sources.grid_view import TILE
from data_pipelines.sources.moves import moves_between
from data_pipelines.sources.play import Player, Rules, play_episodes
from data_pipelines.sources.policies import scripted_policy
from unimodel.tokenizers.train_odometer import Walk
from unimodel.vocabulary import Modality

ROOMS = "data_pipelines.sources.rooms:Rooms-2x2-v0"
VIEW = 5
"""Cells a side, and codes a side."""


@dataclass(frozen=True)
class Walked:
    """An episode: `codes` int64 [T + 1, VIEW, VIEW], `actions` int64 [T], true `poses` int64 [T + 1, 3]."""

    codes: np.ndarray
    actions: np.ndarray
    poses: np.ndarray

    @property
    def walk(self) -> Walk:
        """As an odometer is trained on it."""
        frames = VOCABULARY.ids(Modality.IMAGE, self.codes).reshape(len(self.codes), -1)
        return Walk(frames, VOCABULARY.ids(Modality.ACTION, self.actions), moves_between(self.poses))


@functools.cache
def walked(first_seed: int, episodes: int, steps: int = 48) -> tuple[Walked, ...]:
    """Loops through rooms, and actions at random, which walls stop."""
    settings = ({"kind": "loops", "distance_cells": [2, 6]}, {"kind": "sticky", "repeat_fraction": 0.6})
    players = [Player(each["kind"], 1.0, scripted_policy(each)) for each in settings]
    seeds = range(first_seed, first_seed + episodes)
    played = play_episodes(ROOMS, seeds, players, Rules(max_steps=steps, image_size=VIEW * TILE))
    return tuple(Walked(_codes(episode), episode.actions, episode.poses) for episode in played)


def _codes(episode: Episode) -> np.ndarray:
    """The colours of the cells, numbered."""
    colours = episode.frames[:, TILE // 2 :: TILE, TILE // 2 :: TILE].reshape(-1, 3)
    numbers = [_number(tuple(colour)) for colour in colours.tolist()]
    return np.array(numbers).reshape(-1, VIEW, VIEW)


_numbers: dict[tuple[int, ...], int] = {}


def _number(colour: tuple[int, ...]) -> int:
    return _numbers.setdefault(colour, len(_numbers))
