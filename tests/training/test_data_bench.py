"""`unimodel data bench` on shards and on a run: every figure is there, damage is told.

Run: pytest tests/training/test_data_bench.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import tiny_run

from unimodel.training.data_bench import bench


def test_a_run_tells_of_its_shards_and_its_tokens(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, stages=("unified",))
    run.run.store_config(run.config)
    lines = dict(bench(run.run.path, 0.05))
    shards = [what for what in lines if what.startswith("episodes: ")]
    assert [what.removeprefix("episodes: ") for what in shards] == [
        "read",
        "read and decode, one core",
        *(f"loader, {workers} workers, batches of 64" for workers in (0, 1, 2)),
    ]
    assert "MB/s" in lines["episodes: read"] and "moments/s" in lines["episodes: read and decode, one core"]
    tokens = [lines[f"stage unified: packed, {workers} workers"] for workers in (0, 1, 2)]
    assert all(float(speed.split()[0].replace(",", "")) > 0 and "tokens/s" in speed for speed in tokens)


def test_a_folder_without_shards_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no finished data"):
        list(bench(tmp_path, 0.05))
