"""How far a run has been trained, told from its checkpoints: asking costs no import of torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError

from unimodel.config import RunConfig
from unimodel.config_file import settings_of
from unimodel.run_folder import RunFolder
from unimodel.training.checkpoint import Checkpoint, newest_checkpoint, stage_checkpoint

MAY_CHANGE_ON_RESUME = (
    "name",
    "engine",
    "checkpoint",
    "faults",
    "evaluation",
    "observe",
    "runs_folder",
    "data.workers",
    "data.max_bad_samples",
    "stages.*.batch.accumulation",
)
"""Patterns of what leaves the batches and the result as they are."""


def is_trained(config: RunConfig, run: RunFolder) -> bool:
    """Whether all stages are done. Raises ValueError for a config that differs from the run's."""
    checkpoint = newest_checkpoint(run.checkpoints, lambda _: None)
    if checkpoint is None:
        return False
    require_same_config(config, checkpoint)
    return is_done(config, checkpoint, config.ordered_stages[-1][0])


def finished_stages(run: RunFolder, names: list[str]) -> dict[str, int]:
    """Stage -> global step of its last checkpoint, for those of `names` that are done."""
    finished = {}
    for name in names:
        try:
            finished[name] = stage_checkpoint(run.checkpoints, name).position.step
        except FileNotFoundError:
            continue
    return finished


def last_finished_stage(config: RunConfig, run: RunFolder) -> str:
    """Raises FileNotFoundError when no stage is finished."""
    finished = finished_stages(run, [name for name, _ in config.ordered_stages])
    if not finished:
        raise FileNotFoundError(f"run {run.path} has no finished stage: run `unimodel train CONFIG` to the end of one")
    return list(finished)[-1]


def require_same_config(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Raises ValueError listing what differs between `config` and the one the checkpoint was made with.

    Stages after that of the checkpoint may differ, be new or be left out: nothing has come of them yet.
    """
    now, then = settings_of(config), _with_newer_settings(checkpoint.config)
    for settings in (now, then):
        settings["stages"] = _begun(settings["stages"], checkpoint.position.stage)
    differing = [difference for key in now for difference in differences(now[key], then.get(key), key)]
    if differing:
        raise ValueError(
            f"{checkpoint.folder} was made with another config; different: {', '.join(differing[:5])}. "
            "Restore these values, or choose another `name` to start a new run"
        )


def _with_newer_settings(stored: dict[str, Any]) -> dict[str, Any]:
    """Settings of a checkpoint, and those that came after it by their defaults, with which a run is as it was."""
    try:
        return settings_of(RunConfig.model_validate_json(json.dumps(stored)))
    except ValidationError:  # of a version that had other ones, which are told by name
        return dict(stored)


def _begun(stages: dict[str, Any], last: str) -> dict[str, Any]:
    """Stages in their order up to `last`, all of them where it is not among them."""
    names = sorted(stages, key=lambda name: stages[name]["number"])
    return {name: stages[name] for name in names[: names.index(last) + 1 if last in names else None]}


def differences(now: Any, then: Any, key: str, allowed: Sequence[str] = MAY_CHANGE_ON_RESUME) -> list[str]:
    """What differs between two settings of the name `key`, but for keys that match a pattern of `allowed`."""
    if any(fnmatchcase(key, pattern) for pattern in allowed):
        return []
    if isinstance(now, dict) and isinstance(then, dict):
        return [d for k in sorted({*now, *then}) for d in differences(now.get(k), then.get(k), f"{key}.{k}", allowed)]
    return [] if now == then else [f"{key} (was {then!r}, is {now!r})"]


def is_done(config: RunConfig, checkpoint: Checkpoint, stage: str) -> bool:
    """Whether the run has passed the end of `stage`."""
    order = [name for name, _ in config.ordered_stages]
    reached = order.index(checkpoint.position.stage)
    return order.index(stage) < reached or (order.index(stage) == reached and checkpoint.position.stage_done)
