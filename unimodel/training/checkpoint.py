"""Checkpoints: a folder of tensors as the ranks held them and one JSON state, published whole or not at all.

    checkpoints/00000400-masked/
        rank-00000.safetensors   weights, their moving average, Adam's moments: every element in one rank's file
        rank-00001.safetensors
        state.json               stage, steps, stream state, config, SHA-256 of all of it

Any number of ranks and any ZeRO stage reads what any other wrote (`stored_state.py`). The folder is written under a
hidden name, synced, and renamed; on load every hash is checked, and a damaged checkpoint is passed over for the one
before it. Looking at positions and hashes needs no torch, so none is imported for it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.shards.writer import file_sha256
from data_pipelines.stream.plan import StreamState
from unimodel.run_folder import sync_folder, write_json

if TYPE_CHECKING:
    from unimodel.training.stored_state import StoredState

STATE = "state.json"
NAME = re.compile(r"\d{8,}-.+")
"""Of a checkpoint's folder: the step and the stage."""


@dataclass(frozen=True, slots=True)
class TrainPosition:
    """How far a run has come. `stage_step` counts optimizer steps of the stage, `step` those of the whole run."""

    step: int
    stage: str
    stage_step: int
    stage_done: bool
    updates: int
    """Of the optimizer's state: steps that were not skipped, since it was empty."""
    stream: StreamState


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    folder: Path
    position: TrainPosition
    config: dict[str, Any]
    sha256: str
    """Of the hashes of its files: two checkpoints are equal when it is."""

    def state(self) -> StoredState:
        """Its tensors."""
        from unimodel.training.stored_state import StoredState

        return StoredState(self.folder)


def checkpoint_folder(folder: Path, position: TrainPosition) -> Path:
    """Where the checkpoint of `position` is published."""
    return folder / f"{position.step:08d}-{position.stage}"


def publish_checkpoint(
    hidden: Path, published: Path, position: TrainPosition, config: dict[str, Any], hashes: dict[str, str]
) -> None:
    """Gives the files in `hidden`, synced and with these hashes, their state and their name. Raises OSError."""
    state = {"position": asdict(position), "config": config, "version": version("unimodel"), "sha256": hashes}
    write_json(hidden / STATE, state | {"sha256": hashes | {STATE: _hash_of(state)}})
    shutil.rmtree(published, ignore_errors=True)
    hidden.rename(published)
    sync_folder(published.parent)


def load_checkpoint(folder: Path, share: tuple[int, int] = (0, 1)) -> Checkpoint:
    """Reads and verifies one checkpoint; with a `share` (k, n) of its files only every n-th one from the k-th on.

    Raises ValueError naming the file that is missing or damaged.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        position, hashes = state["position"], state["sha256"]
        own_hash = hashes.pop(STATE)
        position = TrainPosition(**{**position, "stream": StreamState.from_json(position["stream"])})
        checkpoint = Checkpoint(folder, position, state["config"], _hash_of(hashes))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint {folder}: {STATE} is missing or damaged ({error})") from None
    if _hash_of(state) != own_hash:
        raise ValueError(f"checkpoint {folder}: {STATE} is damaged (its SHA-256 differs from the one in it)")
    for name in sorted(hashes)[share[0] :: share[1]]:
        file = folder / name
        if not file.exists():
            raise ValueError(f"checkpoint {folder}: {name} is missing")
        if file_sha256(file) != hashes[name]:
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
            warn(passed_over(error))
    if candidates:
        raise all_damaged(folder)
    return None


def passed_over(error: ValueError) -> str:
    """Says that a damaged checkpoint is not used."""
    return f"{error}; falling back to the checkpoint before it"


def all_damaged(folder: Path) -> ValueError:
    return ValueError(f"every checkpoint in {folder} is damaged: delete the folder to start this run afresh")


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
    return [folder / name for name in newest_first(path.name for path in folder.iterdir() if path.is_dir())]


def newest_first(names: Iterable[str]) -> list[str]:
    """The names of checkpoints among `names`."""
    return sorted((name for name in names if NAME.fullmatch(name)), reverse=True)


def expired(names: Sequence[str], stage: str, keep_last: int, keep_every_steps: int | None) -> list[str]:
    """Of names, newest first: older ones of the running stage, but for every so many steps; not of other stages."""
    older = [name for name in names if name.split("-", 1)[1] == stage][keep_last:]
    return [name for name in older if keep_every_steps is None or int(name.split("-")[0]) % keep_every_steps]


def prune_checkpoints(folder: Path, stage: str, keep_last: int, keep_every_steps: int | None = None) -> None:
    """Deletes the checkpoints in `folder` that have expired."""
    for name in expired([path.name for path in list_checkpoints(folder)], stage, keep_last, keep_every_steps):
        shutil.rmtree(folder / name)


def _hash_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
