"""The plan: a pure function of its state, whole samples exactly once per epoch, exact shares, full rows.

Run: pytest tests/stream/test_plan.py
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_stream import MIXTURE, ROW_TOKENS, ROWS, STEPS, measure, plan

from data_pipelines.stream.mixture import Ingredient
from data_pipelines.stream.order import Draw
from data_pipelines.stream.packing import deal_by_cost
from data_pipelines.stream.plan import WINDOW_ROWS, Plan, StreamState, attention_cost


@given(st.integers(0, 900), st.lists(st.integers(1, 300), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_going_on_from_any_state_gives_the_same_rows(before: int, parts: list[int]) -> None:
    through = plan()
    through.take(before)
    resumed = plan(StreamState.from_json(json.loads(json.dumps(asdict(through.state)))))
    expected = through.take(sum(parts))
    assert [row for part in parts for row in resumed.take(part)] == expected
    assert resumed.state == through.state


def test_the_state_is_small_and_stays_so() -> None:
    made = plan()
    made.take(3 * WINDOW_ROWS)
    early = len(json.dumps(asdict(made.state)))
    made.take(40 * WINDOW_ROWS)
    assert len(json.dumps(asdict(made.state))) < early + 30 < 250


def test_every_sample_comes_whole_and_once_an_epoch() -> None:
    seen: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in plan().take(14 * WINDOW_ROWS):
        assert sum(placed.length for placed in row) <= ROW_TOKENS
        for placed in row:
            assert placed.length == measure(placed.draw)
            seen[placed.draw.ingredient, placed.draw.epoch].append(placed.draw.sample)
    for ingredient, epoch in seen:
        samples = seen[ingredient, epoch]
        assert len(set(samples)) == len(samples), "nothing twice in an epoch"
        if (ingredient, epoch + 1) in seen:
            assert len(samples) == MIXTURE[ingredient].shard_samples.sum()
    assert max(epoch for _, epoch in seen) > 3


def test_shares_follow_their_schedule() -> None:
    tokens = np.zeros((STEPS * ROWS // WINDOW_ROWS, len(MIXTURE)))
    made = plan()
    for window in tokens:
        for row in made.take(WINDOW_ROWS):
            for placed in row:
                window[placed.draw.ingredient] += placed.length
    shares = tokens / tokens.sum(axis=1, keepdims=True)
    assert shares[0] == pytest.approx([0.75, 0.25, 0.0], abs=0.01)
    middle = len(shares) // 2
    progress = middle * WINDOW_ROWS / (STEPS * ROWS)
    wished = np.array([3 - 4 * progress if progress < 0.5 else 2 - 2 * progress, 1.0, 2 * progress])
    assert shares[middle] == pytest.approx(wished / wished.sum(), abs=0.01)


def test_shares_are_exact_to_a_thousandth_over_100_000_samples() -> None:
    mixture = [Ingredient(n, np.array([1000]), [(0.0, s)]) for n, s in (("a", 6.0), ("b", 2.5), ("c", 1.0), ("d", 0.5))]
    lengths = np.random.default_rng(0).lognormal(4, 1, 4000).clip(1, 2048).astype(int).tolist()

    def length(draw: Draw) -> int:
        return lengths[1000 * draw.ingredient + draw.sample]

    made = Plan(mixture, length, seed=0, stage="s", row_tokens=2048, total_rows=10_000)
    tokens, samples, used, rows = np.zeros(4), 0, 0, 0
    while samples < 100_000:
        for row in made.take(WINDOW_ROWS):
            rows, samples, used = rows + 1, samples + len(row), used + sum(placed.length for placed in row)
            for placed in row:
                tokens[placed.draw.ingredient] += placed.length
    assert tokens / tokens.sum() == pytest.approx([0.6, 0.25, 0.1, 0.05], abs=0.001)
    assert used / (rows * 2048) >= 0.99, "and a heavy tail of lengths packs well"


def test_rows_of_a_step_are_dealt_in_equal_cost() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 1.2, 5000).clip(1, 4096).astype(int).tolist()
    mixture = [Ingredient("a", np.array([5000]), [(0.0, 1.0)])]
    made = Plan(mixture, lambda draw: lengths[draw.sample], seed=0, stage="s", row_tokens=4096, total_rows=10_000)
    excess = []
    for _ in range(20):
        costs = [attention_cost(row, 4096.0) for row in made.take(64)]
        totals = [sum(costs[i] for i in hand) for hand in deal_by_cost(costs, 8)]
        excess.append(max(totals) / np.mean(totals) - 1)
    assert max(excess) < 0.03


def test_rows_do_not_come_sorted_by_length() -> None:
    """Decreasing fit sorts; a batch of equally long sequences would be a biased gradient."""
    counts = [len(row) for row in plan().take(WINDOW_ROWS)]
    first, second = np.mean(counts[: WINDOW_ROWS // 2]), np.mean(counts[WINDOW_ROWS // 2 :])
    assert abs(first - second) < 0.25 * np.std(counts)


def test_what_cannot_be_planned_is_refused() -> None:
    settings = {"seed": 0, "stage": "mine", "row_tokens": 40, "total_rows": 10}
    with pytest.raises(ValueError, match="stage mine: the mixture is empty"):
        Plan([], measure, **settings)
    with pytest.raises(ValueError, match="ingredient 'x' of the mixture has no samples"):
        Plan([Ingredient("x", np.array([0, 0]), [(0.0, 1.0)])], measure, **settings)
    with pytest.raises(ValueError, match="state is of 2 ingredients, the mixture has 3"):
        plan(StreamState(1, 0, (1, 1), (0.0, 0.0)))
    with pytest.raises(ValueError, match=r"tokens does not fit a row of 20.*batch\.row_tokens"):
        plan(row_tokens=20).take(1)
