"""A stage that recalls by pose: it trains, goes on after a kill, is exported and played, under any ZeRO stage.

Run: pytest tests/memory/test_by_pose_runs.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_run import ZERO_STAGES, TinyRun, require_same_end, tiny_run, train_here

from unimodel.export.folder import export_run
from unimodel.memory.by_pose import PoseMemory
from unimodel.memory.memory import Memory
from unimodel.tokenizers.odometer import Odometer
from unimodel.tokenizers.prepare import train_tokenizers
from unimodel.training.checkpoint import list_checkpoints
from unimodel.training.loaded_run import load_run
from unimodel.world.rollout import worlds_of
from unimodel.world.sessions.from_run import lived_by
from unimodel.world.starts import Starts

MECHANISMS = (
    "stages.memory.memory.mechanisms="
    "[{kind: window, frames: 1}, {kind: episodic, by: pose, capacity_frames: 4, recalled_frames: 1}]"
)

SHORT = ("stages.memory.steps=4", "checkpoint.every_steps=2")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An odometer of the tiny world."""
    run = tiny_run(tmp_path_factory.mktemp("prepared"), MECHANISMS, stages=("memory",))
    train_tokenizers(run.config, run.run)
    return run.run.odometer


def by_pose(folder: Path, odometer: Path, *overrides: str) -> TinyRun:
    run = tiny_run(folder, MECHANISMS, *overrides, stages=("memory",))
    shutil.copytree(odometer, run.run.odometer)
    return run


def losses(run: TinyRun) -> list[float]:
    return [line["loss"] for line in run.metrics()]


@pytest.mark.parametrize("zero", ZERO_STAGES)
def test_it_trains_under_any_zero_stage_and_goes_on_exactly(zero: int, prepared: Path, tmp_path: Path) -> None:
    whole, resumed = (
        by_pose(tmp_path / name, prepared, *SHORT, f"engine.zero={zero}") for name in ("whole", "resumed")
    )
    for run in (whole, resumed):
        train_here(run.config)
    shutil.rmtree(list_checkpoints(resumed.run.checkpoints)[0])
    assert list_checkpoints(resumed.run.checkpoints), "an earlier one is there to go on from"
    train_here(resumed.config)
    require_same_end(whole, resumed)
    assert np.isfinite(losses(whole)).all() and len(losses(whole)) == whole.total_steps


def test_it_is_played_and_exported_with_its_odometer_beside_it(prepared: Path, tmp_path: Path) -> None:
    """The odometer is a tokenizer: no weight of the model, and a world of another one is another world."""
    run = by_pose(tmp_path, prepared, "stages.memory.steps=2")
    train_here(run.config)
    loaded = load_run(run.config.folder)
    worlds = worlds_of(loaded)
    slot = worlds.open(Starts(loaded, "test")[0].state)
    for _ in range(6):
        worlds.step([slot], [2])
    memory = worlds.memory(slot)
    assert memory is not None and int(memory["episodic/count"][0]) >= 4
    assert isinstance(loaded.backbone.memory, Memory)
    mechanism = loaded.backbone.memory.mechanisms["episodic"]
    assert isinstance(mechanism, PoseMemory)
    trained, frozen = Odometer.load(prepared).state_dict(), dict(mechanism.odometer.named_buffers())
    assert trained.keys() == frozen.keys() and all(torch.equal(frozen[name], trained[name]) for name in trained)
    export_run(run.config.folder, tmp_path / "export")
    with safe_open(tmp_path / "export" / "memory.safetensors", "pt") as weights:
        assert "mechanisms.episodic.embed_pose.weight" in weights.keys()
        assert not [name for name in weights.keys() if "odometer" in name]
    again = Odometer.load(tmp_path / "export")
    assert torch.equal(again.moves, mechanism.odometer.moves)
    assert "odometer.safetensors" in (tmp_path / "export" / "README.md").read_text()
    before = lived_by(loaded)
    marker = run.run.odometer / "settings.json"
    marker.write_text(marker.read_text() + "\n")
    assert lived_by(loaded).tokenizers != before.tokenizers


def test_an_odometer_that_was_added_is_nothing_to_a_stage_that_does_not_recall_by_pose(
    prepared: Path, tmp_path: Path
) -> None:
    """Its worlds go on as they were."""
    run = tiny_run(tmp_path, "stages.memory.steps=2", stages=("memory",))
    train_here(run.config)
    before = lived_by(load_run(run.config.folder))
    shutil.copytree(prepared, run.run.odometer)
    assert lived_by(load_run(run.config.folder)) == before


def test_without_an_odometer_training_says_what_to_do(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, MECHANISMS, stages=("memory",))
    with pytest.raises(ValueError, match="needs an odometer, and the run has none: run `unimodel tokenizer train"):
        train_here(run.config)
