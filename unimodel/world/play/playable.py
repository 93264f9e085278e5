"""Whether a run can be played, told from its files: asking costs no import of torch."""

from __future__ import annotations

from pathlib import Path

from unimodel.run_folder import RunFolder
from unimodel.training.finished import finished_stages


def playable_stage(path: Path, stage: str | None) -> str:
    """The stage to play: `stage`, or the last finished one that taught next frames.

    Raises ValueError when there is none.
    """
    run = RunFolder(path)
    try:
        config = run.config()
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    if stage is not None and stage not in config.stages:
        raise ValueError(f"run {path} has no stage '{stage}'; its stages are {', '.join(config.stages)}")
    teaching = [name for name, part in config.ordered_stages if part.world is not None]
    if not teaching or (stage is not None and stage not in teaching):
        what = "none of its stages" if stage is None else f"not stage '{stage}'"
        raise ValueError(
            f"run {path} cannot be played: {what} learns from interaction sequences, as stage 3 does "
            "(configs/stage3_interactive.yaml)"
        )
    finished = finished_stages(run, [stage] if stage is not None else teaching)
    if not finished:
        raise ValueError(
            f"run {path} cannot be played yet: stage '{stage or teaching[0]}' is not finished. "
            "Run `unimodel train CONFIG` to its end"
        )
    return list(finished)[-1]
