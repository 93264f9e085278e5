"""Steps of a stream: the same global rows for any number of ranks and workers, whenever it was stopped.

Run: pytest tests/stream/test_loader.py
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby, takewhile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_sequences import PAD_ID
from toy_stream import MIXTURE, ROW_TOKENS, ROWS, STEPS, build, measure, name, plan, rows_of, stream

from data_pipelines.stream.bad_sample import BadSample
from data_pipelines.stream.loader import PackedStream, StepBatch, StreamSettings
from data_pipelines.stream.order import Draw
from data_pipelines.stream.plan import Plan, StreamState

LONG_STEPS = 110
"""More than two epochs of every ingredient, over which the shares change."""


@pytest.fixture(scope="module")
def uninterrupted() -> list[list[tuple[int, ...]]]:
    """The rows of every step, sorted, of one process that never stopped."""
    source = stream()
    return [sorted(rows_of(next(source))) for _ in range(LONG_STEPS)]


def together(steps: Iterable[StepBatch]) -> list[tuple[int, ...]]:
    return sorted(row for step in steps for row in rows_of(step))


@given(
    st.lists(st.tuples(st.integers(1, 40), st.sampled_from([1, 2, 3, 4, 8])), min_size=3, max_size=6),
)
@settings(max_examples=12, deadline=None)
def test_the_union_of_ranks_is_the_uninterrupted_run(
    uninterrupted: list[list[tuple[int, ...]]], parts: list[tuple[int, int]]
) -> None:
    """Stopped after random steps and continued on random numbers of ranks."""
    state, done = None, 0
    for steps, num_ranks in parts:
        ranks = [stream(state, rank, num_ranks) for rank in range(num_ranks)]
        for _ in range(min(steps, LONG_STEPS - done)):
            made = [next(rank) for rank in ranks]
            assert together(made) == uninterrupted[done]
            assert len({step.state for step in made}) == 1 and len({step.tokens for step in made}) == 1
            done += 1
        state = StreamState.from_json(json.loads(json.dumps(ranks[-1].state_dict())))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_workers_and_ranks_change_nothing(
    uninterrupted: list[list[tuple[int, ...]]], num_ranks: int, workers: int
) -> None:
    """Stopped with two workers, continued in all numbers; the workers are the last rank's, the others build here."""
    stop = 7 + num_ranks + workers
    source = stream(workers=2)
    for _ in range(stop):
        next(source)
    state = source.state_dict()
    source.close()
    ranks = [stream(None, rank, num_ranks, workers if rank == num_ranks - 1 else 0) for rank in range(num_ranks)]
    for rank in ranks:
        rank.load_state_dict(state)
    for number in range(stop, stop + 3):
        made = [next(rank) for rank in ranks]
        assert together(made) == uninterrupted[number]
        assert len({step.state for step in made}) == 1
    ranks[-1].close()


def test_two_epochs_lose_nothing_and_repeat_nothing(uninterrupted: list[list[tuple[int, ...]]]) -> None:
    """Of what all the other tests compare with: every ingredient's samples, once an epoch, and the shares change."""
    seen: dict[tuple[int, int], list[int]] = defaultdict(list)
    for rows in uninterrupted:
        for row in rows:
            for drawn, _ in groupby(row):
                if drawn:
                    sample = (drawn - 1) % 10_000
                    seen[sample // 1000, (drawn - 1) // 10_000].append(sample % 1000)
    for number, ingredient in enumerate(MIXTURE):
        whole = set(range(int(ingredient.shard_samples.sum()))) - ({13} if number == 1 else set())
        epochs = [seen[number, epoch] for epoch in range(max(epoch for i, epoch in seen if i == number) + 1)]
        assert all(len(epoch) == len(set(epoch)) for epoch in epochs), "none twice"
        complete = list(takewhile(lambda epoch: set(epoch) == whole, epochs))  # noqa: B023 - used at once
        assert len(complete) >= 2, "and the epochs of the last window are cut off"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_that_cannot_be_planned_is_told_in_its_turn_and_tried_again(workers: int) -> None:
    """And not as the death of a worker, nor before the steps that were planned without it."""
    broken = True

    def length(draw: Draw) -> int:
        if broken and draw.epoch == 20:
            raise FileNotFoundError("a table is missing")
        return measure(draw)

    planned = Plan(MIXTURE, length, seed=7, stage="stage", row_tokens=ROW_TOKENS, total_rows=STEPS * ROWS)
    source = PackedStream(planned, build, len(MIXTURE), StreamSettings(ROWS, ROW_TOKENS, PAD_ID, workers=workers))
    steps, whole = list(until_error(source)), stream()
    assert len(steps) > 0 and [rows_of(step) for step in steps] == [rows_of(next(whole)) for _ in steps]
    with pytest.raises(FileNotFoundError, match="a table is missing"):
        next(source)
    broken = False
    assert rows_of(next(source)) == rows_of(next(whole))
    source.close()


def until_error(source: PackedStream) -> Iterator[StepBatch]:
    while True:
        try:
            yield next(source)
        except FileNotFoundError:
            return


def test_what_was_prefetched_is_not_counted_as_used(uninterrupted: list[list[tuple[int, ...]]]) -> None:
    source = stream(workers=2)
    assert sorted(rows_of(next(source))) == uninterrupted[0]
    source.close()
    assert sorted(rows_of(next(source))) == uninterrupted[1]
    source.close()


def test_a_bad_sample_leaves_a_hole_and_moves_nothing() -> None:
    source, planned = stream(), plan()
    bad: list[BadSample] = []
    for _ in range(40):
        step = next(source)
        for row, placed in zip(rows_of(step), planned.take(ROWS), strict=True):
            kept = [one for one in placed if not isinstance(build(one), BadSample)]
            names = [name(one.draw) for one in kept for _ in range(one.length)]
            assert row == (*names, *[0] * (ROW_TOKENS - len(names)))
        assert sum(step.tokens) >= step.batch.num_tokens
        bad += step.bad_samples
    assert bad and set(bad) == {BadSample("b.tar", "unlucky", 512, "thirteen")}


def test_tokens_of_every_ingredient_are_told() -> None:
    step = next(stream())
    ids = step.batch.input_ids[step.batch.document >= 0].numpy()
    counted = np.bincount((ids - 1) % 10_000 // 1000, minlength=len(MIXTURE))
    lost = sum(step.tokens) - int(counted.sum())
    assert step.tokens == (counted[0], counted[1] + lost, counted[2])


def test_in_a_users_own_loop() -> None:
    """As a torch data set: iterated, saved and loaded like any other."""
    loader = torch.utils.data.DataLoader(stream(), batch_size=None)
    steps = [step for _, step in zip(range(3), loader, strict=False)]
    assert [rows_of(step) for step in steps] == [rows_of(step) for _, step in zip(range(3), stream(), strict=False)]
    with pytest.raises(ValueError, match="worker processes of its own"):
        next(iter(torch.utils.data.DataLoader(stream(), batch_size=None, num_workers=2)))
