"""Rows of the demo's own mixtures are full, over episodes as long as those that it records.

Run: pytest tests/stream/test_demo_packing.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipelines.stream.mixture import Ingredient
from data_pipelines.stream.order import Draw
from data_pipelines.stream.plan import WINDOW_ROWS, Plan
from data_pipelines.stream.randomness import keyed_number
from unimodel.config import StageConfig
from unimodel.config_file import load_config
from unimodel.tokenizers.unified import EpisodeShape, first_place, sequence_length
from unimodel.training.data import share_schedule

DEMO = Path(__file__).parents[2] / "configs/demo.yaml"
FRAMES = {2: 48, 3: 141, 4: 166, 5: 199, 6: 205, 7: 217, 8: 177, 9: 196, 10: 203, 11: 194, 12: 204, 13: 188, 14: 161}
FRAMES |= {15: 144, 16: 157, 17: 1400}
"""Frames of an episode -> episodes, of 4,000 that were recorded."""
GRID, MISSION_TOKENS, CAPTION_TOKENS, SHORT_CAPTION_TOKENS, SHORT_FRACTION = 8, 5, 20, 15, 0.0106


def recorded_shapes() -> list[EpisodeShape]:
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.repeat(list(FRAMES), list(FRAMES.values())))
    return [
        EpisodeShape(
            n,
            GRID,
            GRID,
            0,
            2,
            MISSION_TOKENS,
            np.where(rng.random(n) < SHORT_FRACTION, SHORT_CAPTION_TOKENS, CAPTION_TOKENS).tolist(),
        )
        for n in lengths.tolist()
    ]


def fill(name: str, stage: StageConfig, shapes: list[EpisodeShape]) -> float:
    """Tokens per place of the rows of a stage."""

    def measure(draw: Draw) -> int:
        entry, shape = stage.mixture[draw.ingredient], shapes[draw.sample]
        choice = keyed_number(draw.ingredient, draw.epoch, draw.sample)
        start = first_place(entry.sequence, shape.num_frames, shape.caption_tokens[0], entry.most, choice)
        return sequence_length(entry.sequence, shape, start, entry.most)

    samples = np.array([len(shapes)])
    mixture = [Ingredient(entry.sequence, samples, share_schedule(entry)) for entry in stage.mixture]
    size, rows = stage.batch.row_tokens, 4 * WINDOW_ROWS
    plan = Plan(mixture, measure, seed=0, stage=name, row_tokens=size, total_rows=stage.batch.rows * stage.steps)
    return sum(placed.length for row in plan.take(rows) for placed in row) / (rows * size)


def test_the_demos_rows_are_99_percent_full() -> None:
    """B4: over the run; its clips, 161 tokens in rows of 570, cost the last stage a little more."""
    # Rows of a memory stage are segments of equal length, with room for the longest.
    stages = [(name, stage) for name, stage in load_config(DEMO).ordered_stages if stage.memory is None]
    shapes = recorded_shapes()
    fills = {name: fill(name, stage, shapes) for name, stage in stages}
    assert min(fills.values()) > 0.988, fills
    places = {name: stage.steps * stage.batch.rows * stage.batch.row_tokens for name, stage in stages}
    assert sum(fills[name] * places[name] for name in fills) / sum(places.values()) >= 0.99, fills
