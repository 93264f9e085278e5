"""A store of records, empty, in memory where the machine has a disk there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_writer import SETTINGS

from unimodel.memory.store import MemoryStore


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder) / "store"


@pytest.fixture
def store(path: Path) -> Iterator[MemoryStore]:
    with MemoryStore.create(path, SETTINGS) as store:
        yield store
