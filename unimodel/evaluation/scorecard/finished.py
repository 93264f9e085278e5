"""Whether a run's score card is that of its weights, told from its files: no import of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unimodel.config import RunConfig
from unimodel.evaluation.finished import evaluation_state
from unimodel.run_folder import RunFolder, read_json

FORMAT = 1
"""Of the card: another one is made anew."""


def has_card(config: RunConfig, run: RunFolder, split: str) -> bool:
    """Whether the card on disk is of these weights, these episodes and what else it is made from."""
    return run.scorecard.exists() and read_json(run.scorecard).get("state") == card_state(config, run, split)


def card_state(config: RunConfig, run: RunFolder, split: str) -> dict[str, Any]:
    """What the card depends on; its alignment also on what was evaluated and played before."""
    read = {path.name: path.stat().st_mtime_ns for path in (run.evaluation, control_of(run, split)) if path.exists()}
    return {"format": FORMAT, **evaluation_state(config, run, split), "read": read}


def control_of(run: RunFolder, split: str) -> Path:
    """Where `unimodel world plan` writes what controllers got."""
    return run.path / f"control_{split}.json"
