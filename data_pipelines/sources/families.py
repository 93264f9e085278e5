"""Opens any world that can be recorded, to be played."""

from __future__ import annotations

from data_pipelines.sources.recording import world_of
from data_pipelines.sources.world import World


def open_world(environment: str, seed: int, image_size: int) -> World:
    """The world of a gymnasium id, where the episode of `seed` begins; the caller closes it.

    Raises ValueError for an unknown or unsuitable environment or image size, MissingExtraError when its package is not
    installed.
    """
    return world_of(environment).open_world(environment, seed, image_size)
