"""Late in a stream, over many shards: the same rows as without a stop, and no more memory than early in it.

The times are in benchmarks/resume_cost.py. Run: pytest tests/stream/test_large_index.py
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from toy_stream import MIXTURE

from data_pipelines.shards.index import Manifest, write_manifest
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.table import table_path
from data_pipelines.shards.writer import write_shard
from data_pipelines.stream.mixture import Ingredient
from data_pipelines.stream.order import GROUP_SHARDS, Draw
from data_pipelines.stream.plan import Plan, StreamState

LATE = 100_000
SHARDS, SAMPLES = 1_000, 5_000


def test_a_late_state_gives_the_rows_of_an_uninterrupted_plan() -> None:
    """A step is one row of one or two samples, so that there are many steps and epochs."""

    def length(draw: Draw) -> int:
        return 17 + draw.sample % 24

    def plan(state: StreamState | None = None) -> Plan:
        return Plan(MIXTURE, length, seed=7, stage="s", row_tokens=40, total_rows=2 * LATE, state=state)

    through = plan()
    through.take(10)
    for steps in (0, LATE - 10 - 300):
        through.take(steps)
        state = json.loads(json.dumps(asdict(through.state)))
        assert plan(StreamState.from_json(state)).take(300) == through.take(300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real shard and its table, under many names."""
    folder = tmp_path_factory.mktemp("large")
    entry = write_shard(folder / "real.tar", ((f"sample-{i:06d}", {"x": b""}, {"n": [i]}) for i in range(SAMPLES)))
    shards = [replace(entry, file=f"shard-{number:06d}.tar") for number in range(SHARDS)]
    for shard in shards:
        os.link(folder / "real.tar", folder / shard.file)
        os.link(table_path(folder / "real.tar"), table_path(folder / shard.file))
    write_manifest(folder, Manifest(tuple(shards)))
    return folder


def test_memory_is_that_of_the_shards_in_use(folder: Path) -> None:
    reader = ShardReader(folder)
    mixture = [Ingredient(name, reader.shard_samples, [(0.0, 1.0)]) for name in "abc"]

    def length(draw: Draw) -> int:
        assert reader.key(draw.sample) == f"sample-{draw.sample % SAMPLES:06d}"
        return 1 + reader.lengths(draw.sample, "n")[0][0] % 20

    plan = Plan(mixture, length, seed=0, stage="s", row_tokens=64, total_rows=10**8)
    before = resident_bytes()
    for place in range(25):
        plan.seek(StreamState(place, 0, (place * 190_000,) * 3, (0.0,) * 3))
        plan.take(256)
    in_use = 3 * GROUP_SHARDS * table_path(folder / "real.tar").stat().st_size
    assert resident_bytes() - before < 1.5 * in_use + 5e6, "and not of all 1,200 that were read"


def resident_bytes() -> int:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next(int(line[1]) * 1024 for line in lines if line[0] == "VmRSS:")


def test_the_order_of_a_source_is_a_few_numbers_a_shard() -> None:
    """A draw far into a source of 100,000 shards of 10,000 samples: nothing is made for every sample."""
    mixture = [Ingredient("a", np.full(100_000, 10_000), [(0.0, 1.0)])]
    state = StreamState(10**6, 0, (16 * 10**8,), (0.0,))
    before = resident_bytes()
    rows = Plan(mixture, lambda _: 20, seed=0, stage="s", row_tokens=40, total_rows=10**9, state=state).take(300)
    assert {placed.draw.epoch for row in rows for placed in row} == {1}
    assert resident_bytes() - before < 30e6
