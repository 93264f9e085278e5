"""Reads MiniGrid pictures back: what stands where, told cell by cell from the environment's own tiles.

The nearest tile says what a cell shows; a picture then has the facts that its caption would have. Beside the facts
there are laws that hold in every frame of an environment: one agent, walls where they belong, and nothing that does not
exist.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from minigrid.core.constants import COLOR_NAMES
from minigrid.core.grid import Grid
from minigrid.core.world_object import Ball, Box, Door, Floor, Goal, Key, Lava, Wall, WorldObj
from minigrid.minigrid_env import MiniGridEnv

from data_pipelines.sources.minigrid import DIRECTIONS, Level, thing_name
from data_pipelines.sources.minigrid_events import cell_name

LEVELS = 32
"""Levels that are looked at to learn where an environment always and never has walls, and what it has at all."""
UNCLEAR_RMSE = 25.0
"""Of 255: a cell farther from every tile shows nothing that exists (docs/alignment.md has the distances seen)."""
AGENT = "agent facing"
LAWS = ("one agent", "walls", "things that exist")
Cells = list[WorldObj | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A picture beside the caption that it was drawn from.

    `asked`, `shown` and `right` count facts: those of the caption, those of the picture, and those that are in both.
    `broken` are the laws that do not hold. `cells` bool [rows, columns] are those that are right: clear, with what the
    caption says of them and nothing else, and with walls where they belong.
    """

    asked: int
    shown: int
    right: int
    broken: tuple[str, ...]
    cells: np.ndarray

    @property
    def is_right(self) -> bool:
        """Whether everything is as the caption says."""
        return self.right == self.asked

    @property
    def share(self) -> float:
        """Right facts per fact, of those asked or those shown, whichever are more: things that nobody asked for do not
        pay."""
        return self.right / max(self.asked, self.shown)


class GridJudge:
    """Judges pictures of one environment, each `image_size` pixels a side.

    Raises ValueError for an environment that is none of MiniGrid's, or pictures too small to tell its things apart.
    """

    def __init__(self, environment: str, image_size: int) -> None:
        levels = list(_levels(environment, image_size))
        self._side = levels[0].width
        self._tile_size = image_size // self._side
        walls = np.stack([_is_wall(level) for level in levels])
        self._always, self._never = walls.all(axis=0), ~walls.any(axis=0)
        kinds = {type(cell) for level in levels for cell in level.grid.grid}
        tiles = list(_tiles(kinds, self._tile_size))
        self._names = [names for names, _ in tiles]
        self._wall = self._names.index(("wall",))
        self._tiles = np.stack([pixels.ravel() for _, pixels in tiles]).astype(np.float64)
        apart = self._squared_errors(self._tiles)
        np.fill_diagonal(apart, np.inf)
        if not apart.all():
            one, other = (self._names[i] for i in np.argwhere(apart == 0)[0])
            raise ValueError(
                f"{environment} at {image_size} pixels: '{' and '.join(one)}' looks like '{' and '.join(other)}', so "
                "pictures cannot be judged; take a larger data.recording.image_size"
            )

    def judge(self, captions: Sequence[str], pictures: np.ndarray) -> list[Verdict]:
        """`pictures` uint8 [n, size, size, 3]. Raises ValueError for a caption without a fact."""
        verdicts = []
        for caption, (tiles, unclear) in zip(captions, self._look(pictures), strict=True):
            asked = caption.split("; ") if caption else []
            if not asked:
                raise ValueError("a prompt is empty: a picture is judged by the facts of its caption")
            facts, broken = self._reading(tiles, unclear)
            cells = self._as_asked(tiles, unclear, asked)
            verdicts.append(Verdict(len(asked), len(facts), len({*asked} & {*facts}), broken, cells))
        return verdicts

    def read(self, pictures: np.ndarray) -> list[tuple[list[str], tuple[str, ...]]]:
        """(facts in reading order, laws that do not hold) of every picture."""
        return [self._reading(tiles, unclear) for tiles, unclear in self._look(pictures)]

    def _look(self, pictures: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(the nearest tile, whether not even that is near) of every cell [cells] of every picture."""
        count, side, size = len(pictures), self._side, self._tile_size
        cells = pictures.reshape(count, side, size, side, size, 3).swapaxes(2, 3).reshape(count * side * side, -1)
        errors = self._squared_errors(cells.astype(np.float64))
        nearest = errors.argmin(axis=1)
        unclear = errors[np.arange(len(nearest)), nearest] > UNCLEAR_RMSE**2
        return zip(nearest.reshape(count, -1), unclear.reshape(count, -1), strict=True)

    def _reading(self, tiles: np.ndarray, unclear: np.ndarray) -> tuple[list[str], tuple[str, ...]]:
        """From the tile of every cell, row by row."""
        facts = [
            f"{name} at {cell_name(index % self._side, index // self._side)}"
            for index, tile in enumerate(tiles)
            for name in self._names[tile]
            if name != "wall"
        ]
        holds = (
            sum(fact.startswith(AGENT) for fact in facts) == 1,
            bool(self._walls_belong(tiles).all()),
            not unclear.any(),
        )
        return facts, tuple(law for law, does in zip(LAWS, holds, strict=True) if not does)

    def _walls_belong(self, tiles: np.ndarray) -> np.ndarray:
        """bool [rows, columns]: a wall where there always is one, none where there never is."""
        is_wall = (tiles == self._wall).reshape(self._side, self._side)
        return np.where(is_wall, ~self._never, ~self._always)

    def _as_asked(self, tiles: np.ndarray, unclear: np.ndarray, asked: Sequence[str]) -> np.ndarray:
        """bool [rows, columns], as in `Verdict`."""
        places = {cell_name(index % self._side, index // self._side): index for index in range(len(tiles))}
        wanted: list[set[str]] = [set() for _ in tiles]
        for name, _, place in (fact.rpartition(" at ") for fact in asked):
            if place in places:
                wanted[places[place]].add(name)
        same = [{*self._names[tile]} - {"wall"} == want for tile, want in zip(tiles, wanted, strict=True)]
        return (np.array(same) & ~unclear).reshape(self._side, self._side) & self._walls_belong(tiles)

    def _squared_errors(self, cells: np.ndarray) -> np.ndarray:
        """float64 [n, tiles]: mean squared difference of colour values to every tile."""
        products = cells @ self._tiles.T
        norms = (cells**2).sum(axis=1)[:, None] + (self._tiles**2).sum(axis=1)
        return (norms - 2 * products).clip(min=0) / cells.shape[1]


def _levels(environment: str, image_size: int) -> Iterator[MiniGridEnv]:
    for seed in range(LEVELS):
        with contextlib.redirect_stdout(io.StringIO()):
            yield Level(environment, seed, image_size).env


def _is_wall(env: MiniGridEnv) -> np.ndarray:
    """bool [height, width]"""
    return np.array([isinstance(cell, Wall) for cell in env.grid.grid]).reshape(env.height, env.width)


def _tiles(kinds: set[type], tile_size: int) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """(what a cell shows, its picture) of all that an environment with these kinds of things can show."""
    for thing in _things(kinds):
        names = () if thing is None or isinstance(thing, Floor) else (thing_name(thing),)
        names = ("wall",) if isinstance(thing, Wall) else names
        yield names, Grid.render_tile(thing, tile_size=tile_size)
        if thing is None or thing.can_overlap():
            for direction, towards in enumerate(DIRECTIONS):
                pixels = Grid.render_tile(thing, agent_dir=direction, tile_size=tile_size)
                yield (f"{AGENT} {towards}", *names), pixels


def _things(kinds: set[type]) -> Cells:
    """All that may stand in a cell: things of every colour that can appear by an event, others where there are any."""
    things: Cells = [None, Wall()]
    things += [kind(colour) for kind in (Ball, Box, Key) for colour in COLOR_NAMES]
    if Door in kinds:
        states = ((False, False), (True, False), (False, True))
        things += [Door(c, is_open=opened, is_locked=locked) for c in COLOR_NAMES for opened, locked in states]
    if Floor in kinds:
        things += [Floor(colour) for colour in COLOR_NAMES]
    return things + [kind() for kind in (Goal, Lava) if kind in kinds]
