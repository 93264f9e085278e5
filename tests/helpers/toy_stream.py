"""A stream over numbered samples: every token names the draw it belongs to, and lengths are known without reading."""

from __future__ import annotations

import numpy as np
from toy_sequences import PAD_ID, laid_out

from data_pipelines.stream.bad_sample import BadSample
from data_pipelines.stream.loader import PackedStream, StepBatch, StreamSettings
from data_pipelines.stream.mixture import Ingredient
from data_pipelines.stream.order import Draw
from data_pipelines.stream.plan import Placed, Plan, StreamState
from data_pipelines.stream.randomness import keyed_number
from unimodel.batch import PADDING_DOCUMENT, CorruptedSequence
from unimodel.layout import CAUSAL

ROW_TOKENS = 40
STEPS = 150
ROWS = 24
"""A multiple of all numbers of ranks that are tried."""
MIXTURE = (
    Ingredient("a", np.array([7, 20, 3, 30, 11]), [(0.0, 3.0), (0.5, 1.0), (1.0, 0.0)]),
    Ingredient("b", np.array([25]), [(0.0, 1.0)]),
    Ingredient("c", np.array([2] * 20), [(0.0, 0.0), (1.0, 2.0)]),
)


def measure(draw: Draw) -> int:
    return 1 + keyed_number("length", draw.ingredient, draw.sample, draw.epoch) % 29


def name(draw: Draw) -> int:
    return 1 + draw.sample + 1000 * draw.ingredient + 10_000 * draw.epoch


def build(placed: Placed) -> CorruptedSequence | BadSample:
    if placed.draw.ingredient == 1 and placed.draw.sample == 13:
        return BadSample("b.tar", "unlucky", 512, "thirteen")
    return laid_out(np.full(placed.length, name(placed.draw)), np.full(placed.length, CAUSAL))


def plan(state: StreamState | None = None, row_tokens: int = ROW_TOKENS) -> Plan:
    return Plan(MIXTURE, measure, seed=7, stage="stage", row_tokens=row_tokens, total_rows=STEPS * ROWS, state=state)


def stream(state: StreamState | None = None, rank: int = 0, num_ranks: int = 1, workers: int = 0) -> PackedStream:
    settings = StreamSettings(ROWS, ROW_TOKENS, PAD_ID, rank, num_ranks, workers)
    return PackedStream(plan(state), build, len(MIXTURE), settings)


def rows_of(step: StepBatch) -> list[tuple[int, ...]]:
    """The rows of a step as the names of their tokens; padding is 0."""
    batch = step.batch
    return [
        tuple(np.where(batch.document[row] == PADDING_DOCUMENT, 0, batch.input_ids[row]).tolist())
        for row in range(len(batch.input_ids))
    ]
