"""A run to play: two steps from random weights of a large scale, so that every action of the past shows in a frame."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from play_server import PlayServer, play_server
from tiny_run import TinyRun, tiny_run, train_here
from toy_run import make_toy_run

from unimodel.training.loaded_run import LoadedRun, load_run


def _wild_run(factory: pytest.TempPathFactory, name: str, scale: float, *overrides: str) -> TinyRun:
    run = tiny_run(
        factory.mktemp(name),
        f"name={name}",
        "stages.interactive.steps=2",
        f"backbone.initializer_range={scale}",
        *overrides,
        stages=("interactive",),
    )
    train_here(run.config)
    return run


@pytest.fixture(scope="session")
def wild_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return _wild_run(tmp_path_factory, "wild", 1.0)


@pytest.fixture(scope="session")
def wild(wild_run: TinyRun) -> LoadedRun:
    return load_run(wild_run.run.path)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    """Another checkpoint of the same world."""
    return load_run(_wild_run(tmp_path_factory, "other", 1.3).run.path)


@pytest.fixture(scope="session")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    """One that says to have learnt of events."""
    run = _wild_run(tmp_path_factory, "eventful", 1.0, "data.recording.event_fraction=0.5")
    return load_run(run.run.path)


@pytest.fixture(scope="session")
def society(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    """A world of three agents, of weights so large that every agent's action shows in a frame."""
    orchard = "society:data_pipelines.sources.orchard?agents=3"
    run = make_toy_run(tmp_path_factory.mktemp("society"), environment=orchard, policies=[{"kind": "random"}])
    loaded = load_run(run.path)
    with torch.no_grad():
        for parameter in loaded.backbone.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(20.0)
    return loaded


@pytest.fixture(scope="module")
def server(wild: LoadedRun) -> Iterator[PlayServer]:
    """One for all tests of a module."""
    with play_server(wild, max_clients=24) as running:
        yield running
