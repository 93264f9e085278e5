"""Packed streams: resumable from any state, the same for any number of ranks, nothing lost in packing.

Run: pytest tests/stream/test_packing.py
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_sequences import PAD_ID, laid_out

from data_pipelines.stream.order import Draw, Ingredient, MixtureOrder
from data_pipelines.stream.packing import WINDOW_DRAWS, PackedStream, StreamState, best_fit_decreasing
from data_pipelines.stream.randomness import keyed_generator
from unimodel.batch import CAUSAL, PADDING_DOCUMENT, CorruptedSequence, PackedBatch

ROW_TOKENS = 40


def numbered(draw: Draw) -> CorruptedSequence:
    """A sequence whose tokens all name its draw, of a length that depends on nothing else."""
    length = int(keyed_generator("length", draw.ingredient, draw.sample, draw.epoch).integers(1, 30))
    name = 1 + draw.sample + 100 * draw.ingredient + 1000 * draw.epoch
    return laid_out(np.full(length, name), np.full(length, CAUSAL))


def stream(rows: int = 4, state: StreamState | None = None, rank: int = 0, num_ranks: int = 1) -> PackedStream:
    order = MixtureOrder([Ingredient(60, 2.0), Ingredient(25, 1.0)], 7, "stage")
    return PackedStream(
        order, numbered, rows=rows, row_tokens=ROW_TOKENS, pad_id=PAD_ID, state=state, rank=rank, num_ranks=num_ranks
    )


def equal(one: PackedBatch, other: PackedBatch) -> bool:
    return all(torch.equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(PackedBatch))


def take(source: PackedStream, number: int) -> list[PackedBatch]:
    return [next(source) for _ in range(number)]


@given(rows=st.integers(1, 9), before=st.integers(0, 40), after=st.integers(1, 8))
@settings(max_examples=25)
def test_resuming_from_any_state_gives_the_same_batches(rows: int, before: int, after: int) -> None:
    through = stream(rows)
    take(through, before)
    resumed = stream(rows, state=through.state)
    expected = take(through, after)
    assert all(equal(a, b) for a, b in zip(expected, take(resumed, after), strict=True))
    assert resumed.state == through.state


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_ranks_together_see_what_one_process_sees(num_ranks: int) -> None:
    """Round robin: row r of the global batch is row r // ranks of rank r % ranks."""
    alone, ranks = stream(8), [stream(8, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    for _ in range(12):
        whole, parts = next(alone), [next(rank) for rank in ranks]
        for row in range(8):
            part = parts[row % num_ranks].rows(row // num_ranks, row // num_ranks + 1)
            assert equal(part, whole.rows(row, row + 1))
        assert {rank.state for rank in ranks} == {alone.state}


def test_a_run_may_go_on_with_another_number_of_ranks() -> None:
    alone, two = stream(4), [stream(4, rank=rank, num_ranks=2) for rank in range(2)]
    take(alone, 9)
    for rank in two:
        take(rank, 9)
    four = [stream(4, state=two[0].state, rank=rank, num_ranks=4) for rank in range(4)]
    whole, parts = next(alone), [next(rank) for rank in four]
    assert all(equal(parts[row], whole.rows(row, row + 1)) for row in range(4))


def test_every_draw_arrives_whole_and_exactly_once() -> None:
    order = MixtureOrder([Ingredient(60, 2.0), Ingredient(25, 1.0)], 7, "stage")
    sequences = [numbered(order[n]) for n in range(3 * WINDOW_DRAWS)]
    expected = sorted((int(s.input_ids[0]), len(s)) for s in sequences)
    source, found = stream(1), []
    for batch in source:
        assert source.state.window <= 3 and len(found) <= len(expected), "it moves on"
        for document in range(int(batch.document.max()) + 1):
            ids = batch.input_ids[batch.document == document]
            assert len(set(ids.tolist())) == 1, "a sequence is never cut or mixed"
            found.append((int(ids[0]), len(ids)))
        assert (batch.input_ids[batch.document == PADDING_DOCUMENT] == PAD_ID).all()
        if source.state == StreamState(3, 0):
            break
    assert sorted(found) == expected


def test_rows_do_not_come_sorted_by_length() -> None:
    """Decreasing fit sorts; a batch of equally long sequences would be a biased gradient."""
    documents = [int(batch.document.max()) for batch in take(stream(1), 40)]
    assert documents != sorted(documents) and documents != sorted(documents, reverse=True)


# --- best fit -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(50, 120))
def test_best_fit_loses_nothing_and_overfills_nothing(lengths: list[int], capacity: int) -> None:
    rows = best_fit_decreasing(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= capacity for row in rows)
    lower = -(-sum(lengths) // capacity)
    assert len(rows) <= 1.25 * lower + 2, "within the known bound 11/9 OPT + 1 of decreasing fit"
    assert best_fit_decreasing(lengths, capacity) == rows


def test_best_fit_takes_the_fullest_row_that_fits() -> None:
    assert best_fit_decreasing([6, 5, 4, 3], 10) == [[0, 2], [1, 3]]
    assert best_fit_decreasing([7, 6, 3], 10) == [[0, 2], [1]]


def test_longer_than_a_row_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"51 tokens does not fit a row of 50.*batch\.row_tokens"):
        best_fit_decreasing([3, 51], 50)
