"""A stage with every memory at once: on one process or two, whole or resumed, after a stage without one.

Run: pytest tests/distributed/test_memory_ranks.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_world_sizes import require_equal_losses
from tiny_run import TinyRun, command, require_same_end, tiny_run, train_here

from unimodel.export.folder import export_run
from unimodel.memory.memory import Memory
from unimodel.training.checkpoint import list_checkpoints
from unimodel.training.initial_weights import read_initial_weights
from unimodel.training.loaded_run import load_run

SETTINGS = (
    "stages.memory.steps=20",
    "stages.memory.optimizer.kind=adamw",
    "stages.memory.optimizer.epsilon=0.05",
    "stages.memory.optimizer.learning_rate=0.02",
    "stages.memory.optimizer.gradient_clip=100.0",
)


def remembering(folder: Path, *overrides: str) -> TinyRun:
    return tiny_run(folder, *SETTINGS, *overrides, stages=("memory",))


@pytest.mark.parametrize("zero", [0, *(pytest.param(zero, marks=pytest.mark.slow) for zero in (1, 2, 3))])
def test_two_processes_train_a_memory_like_one(zero: int, tmp_path: Path) -> None:
    """Rows of other lengths and resets on either rank."""
    one, two = (remembering(tmp_path / name, f"engine.zero={zero}") for name in ("one", "two"))
    result = command("train", str(two.config_file), ranks=2)
    assert result.returncode == 0, result.stderr
    train_here(one.config)
    require_equal_losses(one, two)


def test_a_memory_is_resumed_exactly(tmp_path: Path) -> None:
    whole, resumed = remembering(tmp_path / "whole"), remembering(tmp_path / "resumed")
    train_here(whole.config)
    train_here(resumed.config)
    for checkpoint in list_checkpoints(resumed.run.checkpoints)[:1]:
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    assert list_checkpoints(resumed.run.checkpoints), "an earlier one is there to go on from"
    train_here(resumed.config)
    require_same_end(whole, resumed)


def test_a_stage_with_a_memory_goes_on_from_one_without(tmp_path: Path) -> None:
    """Every weight of the decoder by name, the memory from its own beginning; and all of it is loaded again."""
    run = tiny_run(tmp_path, "stages.memory.steps=2", stages=("interactive", "memory"))
    train_here(run.config)
    log = run.run.log.read_text()
    assert "stage 4 memory: 2 steps; weights by name:" in log and " 0 dropped" in log and " 0 new" not in log
    loaded = load_run(run.config.folder)
    assert loaded.stage == "memory" and isinstance(loaded.backbone.memory, Memory)
    assert load_run(run.config.folder, "interactive").backbone.memory is None


def test_an_export_has_the_memory_beside_the_decoder(tmp_path: Path) -> None:
    """Another run can start from both."""
    run = tiny_run(tmp_path, "stages.memory.steps=2", stages=("memory",))
    train_here(run.config)
    export_run(run.config.folder, tmp_path / "export")
    weights = read_initial_weights(tmp_path / "export")
    backbone = load_run(run.config.folder).backbone
    parameters = dict(backbone.named_parameters())
    assert sorted(weights) == sorted(parameters) and any(name.startswith("memory.") for name in weights)
    assert all(torch.equal(weights[name], value) for name, value in parameters.items())
    assert "memory.safetensors" in (tmp_path / "export" / "README.md").read_text()
