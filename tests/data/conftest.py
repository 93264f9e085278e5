"""One small recorded data set for all tests; whoever damages it copies it first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from recorded_data import small_recording

from data_pipelines.sources.recording import record_dataset


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: train (3 shards, 10 episodes), validation (1 shard, 4 episodes), test (1 shard, 2 episodes)."""
    folder = tmp_path_factory.mktemp("recorded")
    assert record_dataset(folder, small_recording(), processes=1)
    return folder


@pytest.fixture
def copied(recorded: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(recorded, tmp_path / "data")
