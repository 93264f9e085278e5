"""Checkpoints: a folder of safetensors by parameter name and one JSON state, published whole or not at all.

    checkpoints/00000400-masked/
        weights.safetensors      fp32 weights
        average.safetensors      their moving average (when the stage keeps one)
        optimizer.safetensors    Adam's moments
        state.json               stage, steps, stream state, config, SHA-256 of all of it

The folder is written under a hidden name, synced, and renamed; on load every hash is checked, and a damaged checkpoint
is passed over for the one before it. Looking at positions and hashes needs no torch, so none is imported for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.shards.writer import file_sha256
from data_pipelines.stream.plan import StreamState
from unimodel.run_folder import sync_folder, write_json

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, AVERAGE, OPTIMIZER, STATE = "weights.safetensors", "average.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True, slots=True)
class TrainPosition:
    """How far a run has come. `stage_step` counts optimizer steps of the stage, `step` those of the whole run."""

    step: int
    stage: str
    stage_step: int
    stage_done: bool
    stream: StreamState


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    folder: Path
    position: TrainPosition
    config: dict[str, Any]

    def weights(self, *, averaged: bool = False) -> dict[str, Tensor]:
        """fp32 weights by name; `averaged` takes the moving average where the stage kept one."""
        return self._read(AVERAGE if averaged and (self.folder / AVERAGE).exists() else WEIGHTS)

    def optimizer_state(self) -> dict[str, Tensor]:
        return self._read(OPTIMIZER) if (self.folder / OPTIMIZER).exists() else {}

    def _read(self, file: str) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(self.folder / file)


def save_checkpoint(
    folder: Path, position: TrainPosition, config: dict[str, Any], tensors: dict[str, dict[str, Tensor]]
) -> Path:
    """Writes `tensors` (file name -> name -> tensor) and the state; returns the published folder.

    Raises OSError when the disk is full: nothing is published then, and the half-written folder is removed.
    """
    from safetensors.torch import save_file

    published = folder / f"{position.step:08d}-{position.stage}"
    hidden = folder / f".{published.name}.tmp"
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    try:
        for name, values in tensors.items():
            if values:
                save_file({key: value.contiguous() for key, value in values.items()}, hidden / name)
        hashes = {file.name: file_sha256(file) for file in sorted(hidden.iterdir())}
        state = {"position": asdict(position), "config": config}
        write_json(hidden / STATE, state | {"sha256": hashes | {STATE: _state_hash(state)}})
        for file in hidden.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(published, ignore_errors=True)
        hidden.rename(published)
        sync_folder(folder)
    except BaseException as error:
        shutil.rmtree(hidden, ignore_errors=True)
        if isinstance(error, OSError) or "No space left" in str(error):
            raise OSError(
                f"checkpoint {published} could not be written ({error}): free disk space and run the same command again"
            ) from error
        raise
    return published


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads and verifies one checkpoint. Raises ValueError naming the file that is missing or damaged."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        position, hashes = state["position"], dict(state["sha256"])
        checkpoint = Checkpoint(
            folder, TrainPosition(**{**position, "stream": StreamState.from_json(position["stream"])}), state["config"]
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint {folder}: {STATE} is missing or damaged ({error})") from None
    for name, expected in hashes.items():
        file = folder / name
        if not file.exists():
            raise ValueError(f"checkpoint {folder}: {name} is missing")
        if (_state_hash(state) if name == STATE else file_sha256(file)) != expected:
            raise ValueError(f"checkpoint {folder}: {name} is damaged (its SHA-256 differs from the one in {STATE})")
    return checkpoint


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that verifies, or None when there is none at all.

    Damaged ones are reported through `warn` and passed over. Raises ValueError when every one of them is damaged:
    starting afresh over them would lose the run silently.
    """
    candidates = list_checkpoints(folder)
    for candidate in candidates:
        try:
            return load_checkpoint(candidate)
        except ValueError as error:
            warn(f"{error}; falling back to the checkpoint before it")
    if candidates:
        raise ValueError(f"every checkpoint in {folder} is damaged: delete the folder to start this run afresh")
    return None


def stage_checkpoint(folder: Path, stage: str) -> Checkpoint:
    """The last checkpoint of a finished stage. Raises FileNotFoundError when the stage has not ended."""
    for candidate in list_checkpoints(folder):
        if candidate.name.split("-", 1)[1] == stage:
            checkpoint = load_checkpoint(candidate)
            if checkpoint.position.stage_done:
                return checkpoint
    raise FileNotFoundError(
        f"no finished checkpoint of stage '{stage}' in {folder}: run `unimodel train CONFIG` to its end"
    )


def list_checkpoints(folder: Path) -> list[Path]:
    """Published checkpoints, newest first."""
    if not folder.exists():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "." and "-" in path.name]
    return sorted(found, reverse=True)


def prune_checkpoints(folder: Path, stage: str, keep_last: int) -> None:
    """Deletes older checkpoints of the running stage; those of finished stages stay."""
    of_stage = [path for path in list_checkpoints(folder) if path.name.split("-", 1)[1] == stage]
    for path in of_stage[keep_last:]:
        shutil.rmtree(path)


def _state_hash(state: dict[str, Any]) -> str:
    """SHA-256 of what the state says, but for the hashes that stand beside it."""
    values = {key: value for key, value in state.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
