"""What an agent sees of a grid of cells: those before it, as tiles, with the agent in the middle of the lower edge.

It looks through walls: what is in sight is a matter of place alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TILE = 8
"""Pixels: a cell is a patch of an image tokenizer."""
TURNS = (1, 2, 3, 0)
"""Quarters, counter-clockwise, that bring the cell ahead to the top; for right, down, left, up."""
AGENT_COLOUR = (250, 250, 250)


def cells_before(cells: np.ndarray, pose: Sequence[int], view_cells: int, outside: int) -> np.ndarray:
    """int [view_cells, view_cells] of `cells` [height, width], seen from `pose` (x, y, direction); `outside` beyond."""
    reach = view_cells - 1
    x, y, direction = pose
    top, left = max(0, y - reach), max(0, x - reach)
    within = cells[top : y + reach + 1, left : x + reach + 1]
    around = np.full((2 * reach + 1, 2 * reach + 1), outside)
    down, right = top - y + reach, left - x + reach
    around[down : down + within.shape[0], right : right + within.shape[1]] = within
    half = view_cells // 2
    return np.rot90(around, TURNS[direction])[:view_cells, reach - half : reach + half + 1]


def drawn(seen: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """uint8 [size, size, 3]: each number of `seen` as its tile (uint8 [kinds, TILE, TILE, 3]), with the agent."""
    side = len(seen) * TILE
    picture = tiles[seen].transpose(0, 2, 1, 3, 4).reshape(side, side, 3)
    left = len(seen) // 2 * TILE
    picture[-TILE:, left : left + TILE][_AGENT] = AGENT_COLOUR
    return picture


def flat_tile(colour: Sequence[int]) -> np.ndarray:
    """uint8 [TILE, TILE, 3] of one colour, darker at its upper and left edges: that cells can be counted."""
    tile = np.broadcast_to(np.array(colour, dtype=np.uint8), (TILE, TILE, 3)).copy()
    tile[0], tile[:, 0] = tile[0] // 4 * 3, tile[:, 0] // 4 * 3
    return tile


def _agent() -> np.ndarray:
    """bool [TILE, TILE]: an arrow that points up."""
    y, x = np.mgrid[:TILE, :TILE]
    return (abs(x - (TILE - 1) / 2) * 2 <= y - 0.5) & (y < TILE - 1) & (y > 0)


_AGENT = _agent()
