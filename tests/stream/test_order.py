"""The order of a source: a pure function of (seed, stage, source, draw number), whole epochs, few shards at a time.

Run: pytest tests/stream/test_order.py
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.stream import order as module
from data_pipelines.stream.order import SampleOrder

shards = st.lists(st.integers(0, 9), min_size=1, max_size=60).filter(any)


@given(shards, st.integers(0, 1000), st.lists(st.integers(0, 2000), min_size=1, max_size=20))
@settings(max_examples=50)
def test_a_draw_is_a_pure_function_of_its_number(counts: list[int], seed: int, numbers: list[int]) -> None:
    """Asked in any order, by any number of readers."""
    one, fresh = SampleOrder(counts, seed, "s"), SampleOrder(counts, seed, "s")
    forwards = {n: one[n] for n in sorted(numbers)}
    assert all(fresh[n] == forwards[n] for n in reversed(numbers))
    assert all(SampleOrder(counts, seed, "s")[n] == forwards[n] for n in numbers[:3])


@given(shards, st.integers(0, 1000))
@settings(max_examples=50)
def test_every_sample_comes_exactly_once_per_epoch(counts: list[int], seed: int) -> None:
    order = SampleOrder(counts, seed, "s")
    total = sum(counts)
    for epoch in range(3):
        drawn = [order[n] for n in range(epoch * total, (epoch + 1) * total)]
        assert {e for e, _ in drawn} == {epoch}
        assert sorted(sample for _, sample in drawn) == list(range(total))


def test_a_reader_needs_few_shards_at_a_time() -> None:
    order = SampleOrder([10] * 100, 0, "s")
    shard = np.array([order[n][1] // 10 for n in range(1000)])
    open_at_once = [len(set(shard[start : start + 10 * module.GROUP_SHARDS])) for start in range(0, 1000, 160)]
    assert max(open_at_once) <= module.GROUP_SHARDS
    assert len(set(shard[:160])) == module.GROUP_SHARDS, "and mixes that many"


def test_large_shards_are_shuffled_in_smaller_groups() -> None:
    order = SampleOrder([module.GROUP_SAMPLES // 2] * 8, 0, "s")
    shard = [order[n][1] // (module.GROUP_SAMPLES // 2) for n in range(0, 8 * module.GROUP_SAMPLES // 2, 1000)]
    changes = sum(a != b for a, b in zip(shard, shard[1:], strict=False))
    assert len(set(shard)) == 8 and changes > 100, "two shards are mixed"
    assert len(set(shard[: module.GROUP_SAMPLES // 1000])) == 2


def test_seed_stage_source_and_epoch_each_change_the_order() -> None:
    def samples(*key: int | str, epoch: int = 0) -> list[int]:
        order = SampleOrder([8] * 8, *key)
        return [order[n][1] for n in range(64 * epoch, 64 * (epoch + 1))]

    keys = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]
    orders = [*(samples(*key) for key in keys), samples(0, "a", 0, epoch=1)]
    assert len({tuple(order) for order in orders}) == 5
    assert orders[0] != list(range(64)), "shuffled"


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        SampleOrder([0, 0], 0, "s")
