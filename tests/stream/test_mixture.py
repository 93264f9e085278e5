"""Shares of tokens: exact in the long run, also while they change.

Run: pytest tests/stream/test_mixture.py
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.stream.mixture import Debt, Ingredient, shares_at

ONE = np.array([1])


@given(
    st.lists(st.floats(0.01, 10.0), min_size=1, max_size=6),
    st.integers(1, 500),
    st.integers(0, 10_000),
)
@settings(max_examples=100)
def test_what_an_ingredient_got_is_its_share_to_within_a_few_samples(
    shares: list[float], longest: int, seed: int
) -> None:
    shares = [share / sum(shares) for share in shares]
    rng = np.random.default_rng(seed)
    debt, got = Debt(shares, [0.0] * len(shares)), np.zeros(len(shares))
    for _ in range(2000):
        ingredient, length = debt.next_ingredient(), int(rng.integers(1, longest + 1))
        debt.pay(ingredient, length)
        got[ingredient] += length
        assert np.abs(got - np.array(shares) * got.sum()).max() <= longest * len(shares)


def test_an_ingredient_of_share_0_is_never_drawn() -> None:
    debt = Debt([0.0, 1.0], [50.0, -50.0])
    for _ in range(10):
        assert debt.next_ingredient() == 1
        debt.pay(1, 7)


def test_shares_change_along_the_stage() -> None:
    mixture = [Ingredient("a", ONE, [(0.0, 3.0), (0.5, 1.0)]), Ingredient("b", ONE, [(0.0, 1.0)])]
    assert shares_at(mixture, 0.0) == [0.75, 0.25]
    assert shares_at(mixture, 0.25) == pytest.approx([2 / 3, 1 / 3])
    assert shares_at(mixture, 0.5) == shares_at(mixture, 1.0) == [0.5, 0.5]


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"all shares .* 0 at 0\.500"):
        shares_at([Ingredient("a", ONE, [(0.0, 1.0), (0.5, 0.0)])], 0.5)
