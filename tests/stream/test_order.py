"""The order of a mixture: a pure function of (seed, stage, draw number) with exact shares and whole epochs.

Run: pytest tests/stream/test_order.py
"""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.stream.order import CYCLE_DRAWS, Ingredient, MixtureOrder

ingredients = st.lists(st.builds(Ingredient, st.integers(1, 40), st.floats(0.1, 10.0)), min_size=1, max_size=4)


@given(ingredients, st.integers(0, 1000), st.lists(st.integers(0, 5000), min_size=1, max_size=30))
@settings(max_examples=50)
def test_draw_is_a_pure_function_of_its_number(mixture: list[Ingredient], seed: int, numbers: list[int]) -> None:
    """Asked in any order, by any number of readers."""
    one, fresh = MixtureOrder(mixture, seed, "s"), MixtureOrder(mixture, seed, "s")
    forwards = {n: one[n] for n in sorted(numbers)}
    assert all(fresh[n] == forwards[n] for n in reversed(numbers))
    assert all(MixtureOrder(mixture, seed, "s")[n] == forwards[n] for n in numbers[:3])


@given(ingredients, st.integers(0, 1000))
@settings(max_examples=50)
def test_every_sample_comes_exactly_once_per_epoch(mixture: list[Ingredient], seed: int) -> None:
    order = MixtureOrder(mixture, seed, "s")
    seen: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number in range(10 * CYCLE_DRAWS):
        draw = order[number]
        seen[draw.ingredient, draw.epoch].append(draw.sample)
    for index, ingredient in enumerate(mixture):
        epochs = [samples for (i, _), samples in sorted(seen.items()) if i == index]
        assert epochs, "no ingredient is left out"
        for whole in epochs[:-1]:
            assert sorted(whole) == list(range(ingredient.num_samples))
        assert len(set(epochs[-1])) == len(epochs[-1]), "nothing twice in the epoch under way"


@pytest.mark.parametrize(
    ("shares", "per_cycle"),
    [
        ([1.0], [64]),
        ([1.0, 1.0], [32, 32]),
        ([3.0, 1.0], [48, 16]),
        ([2.0, 1.0, 1.0], [32, 16, 16]),
        ([1e-6, 1.0], [1, 63]),
    ],
)
def test_shares_are_exact_in_every_cycle(shares: list[float], per_cycle: list[int]) -> None:
    order = MixtureOrder([Ingredient(50, share) for share in shares], 3, "s")
    for cycle in range(5):
        drawn = Counter(order[n].ingredient for n in range(cycle * CYCLE_DRAWS, (cycle + 1) * CYCLE_DRAWS))
        assert [drawn[i] for i in range(len(shares))] == per_cycle


def test_seed_stage_and_epoch_each_change_the_order() -> None:
    def samples(seed: int, stage: str, epoch: int) -> list[int]:
        order = MixtureOrder([Ingredient(64, 1.0)], seed, stage)
        return [order[n].sample for n in range(64 * epoch, 64 * (epoch + 1))]

    orders = [samples(0, "a", 0), samples(1, "a", 0), samples(0, "b", 0), samples(0, "a", 1)]
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] != list(range(64)), "shuffled"


@pytest.mark.parametrize("mixture", [[], [Ingredient(0, 1.0)]])
def test_nothing_to_draw_is_refused(mixture: list[Ingredient]) -> None:
    with pytest.raises(ValueError, match="stage mine"):
        MixtureOrder(mixture, 0, "mine")
