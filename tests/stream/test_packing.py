"""Best-fit decreasing loses nothing and fills well; rows are dealt so that no rank has more to do.

Run: pytest tests/stream/test_packing.py
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.stream.packing import best_fit_decreasing, deal_by_cost


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(50, 120))
def test_best_fit_loses_nothing_and_overfills_nothing(lengths: list[int], capacity: int) -> None:
    rows = best_fit_decreasing(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= capacity for row in rows)
    filled = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(rows) < 2 or filled[0] + filled[1] > capacity, "no two rows would fit into one"
    assert best_fit_decreasing(lengths, capacity) == rows


def test_best_fit_takes_the_fullest_row_that_fits() -> None:
    assert best_fit_decreasing([6, 5, 4, 3], 10) == [[0, 2], [1, 3]]
    assert best_fit_decreasing([7, 6, 3], 10) == [[0, 2], [1]]


def test_longer_than_a_row_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"51 tokens does not fit a row of 50.*batch\.row_tokens"):
        best_fit_decreasing([3, 51], 50)


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=8), st.integers(1, 6))
def test_every_rank_gets_equally_many_rows(costs: list[float], num_ranks: int) -> None:
    costs = costs * num_ranks
    hands = deal_by_cost(costs, num_ranks)
    assert sorted(i for hand in hands for i in hand) == list(range(len(costs)))
    assert {len(hand) for hand in hands} == {len(costs) // num_ranks}
    assert all(hand == sorted(hand) for hand in hands)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.sampled_from([2, 4, 8]))
def test_dealing_by_cost_beats_dealing_in_turn(seed: int, num_ranks: int) -> None:
    costs = np.random.default_rng(seed).lognormal(size=16 * num_ranks)

    def worst(hands: list[list[int]]) -> float:
        return max(float(costs[hand].sum()) for hand in hands)

    in_turn = [list(range(rank, len(costs), num_ranks)) for rank in range(num_ranks)]
    assert worst(deal_by_cost(costs.tolist(), num_ranks)) <= worst(in_turn) + 1e-9


def test_rows_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="5 rows do not divide among 2 ranks"):
        deal_by_cost([1.0] * 5, 2)
