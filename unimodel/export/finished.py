"""What an export was made from, and whether it is there: told from files, no import of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_pipelines.shards.writer import file_sha256
from unimodel.config import RunConfig
from unimodel.run_folder import RunFolder, read_json
from unimodel.training.checkpoint import stage_checkpoint
from unimodel.training.finished import last_finished_stage

MARKER = "unimodel.json"


def is_exported(config: RunConfig, run: RunFolder, out: Path) -> bool:
    """Whether `out` is the export of the run's newest finished stage with its newest figures.

    Raises ValueError when `out` holds something else than an export, FileNotFoundError when no stage is finished.
    """
    if not out.exists() or not any(out.iterdir()):
        return False
    if not (out / MARKER).exists():
        raise ValueError(f"{out} exists and is not an export of this project: choose another --out")
    return read_json(out / MARKER) == export_source(config, run)


def export_source(config: RunConfig, run: RunFolder) -> dict[str, Any]:
    """What an export made now is made from."""
    stage = last_finished_stage(config, run)
    checkpoint = stage_checkpoint(run.checkpoints, stage)
    return {
        "run": config.name,
        "stage": stage,
        "step": checkpoint.position.step,
        "checkpoint_sha256": checkpoint.sha256,
        "evaluation_sha256": file_sha256(run.evaluation) if run.evaluation.exists() else None,
    }
