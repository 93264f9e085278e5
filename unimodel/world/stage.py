"""Which stage of a run steps its world, told from its files: asking costs no import of torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unimodel.run_folder import RunFolder
from unimodel.training.finished import finished_stages

if TYPE_CHECKING:
    from unimodel.training.loaded_run import LoadedRun


def world_stage(path: Path, stage: str | None = None) -> str:
    """`stage`, or the last finished one that was trained on interactions of the recorded episodes. Later ones may have
    learnt something else, as the demo's memory has in a world of its own.

    Raises ValueError when there is none or `stage` is none, FileNotFoundError when there is no run or it is not
    finished.
    """
    run = RunFolder(path)
    config = run.config()
    if stage is not None and stage not in config.stages:
        raise ValueError(f"run {path} has no stage '{stage}'; its stages are {', '.join(config.stages)}")
    stepping = [name for name, part in config.ordered_stages if part.world is not None]
    if stage is not None and stage not in stepping:
        raise ValueError(
            f"run {path}: stage '{stage}' was not trained on interaction sequences: it cannot step a world"
        )
    if not stepping:
        raise ValueError(
            f"run {path} cannot step a world: none of its stages was trained on interaction sequences, as stage 3 is "
            "(configs/stage3_interactive.yaml)"
        )
    finished = finished_stages(run, [stage] if stage is not None else stepping)
    if not finished:
        raise FileNotFoundError(
            f"run {path} cannot step a world yet: stage '{stage or stepping[0]}' is not finished; "
            "run `unimodel train CONFIG` to its end"
        )
    return list(finished)[-1]


def load_world(path: Path, stage: str | None = None) -> LoadedRun:
    """Loads `world_stage`. Raises as it does."""
    from unimodel.training.loaded_run import load_run

    return load_run(path, world_stage(path, stage))
