"""Whether a run's figures and its page are those of its weights, told from its files: no import of torch."""

from __future__ import annotations

from typing import Any

from data_pipelines.shards.index import INDEX_FILE
from data_pipelines.shards.writer import file_sha256
from unimodel.config import RunConfig
from unimodel.config_file import settings_of
from unimodel.run_folder import RunFolder, read_json
from unimodel.tokenizers.finished import SETTINGS_FILE, source_names
from unimodel.training.checkpoint import list_checkpoints
from unimodel.training.finished import finished_stages


def is_evaluated(config: RunConfig, run: RunFolder, split: str) -> bool:
    """Whether the figures on disk are of these weights and these episodes."""
    if not run.evaluation.exists():
        return False
    return read_json(run.evaluation).get("state") == evaluation_state(config, run, split)


def evaluation_state(config: RunConfig, run: RunFolder, split: str) -> dict[str, Any]:
    """What the figures depend on."""
    stages = finished_stages(run, [name for name, _ in config.ordered_stages])
    folders = {name: run.tokens_of(name, split) for name in source_names(config)}
    codes = {name: file_sha256(f / INDEX_FILE) for name, f in folders.items() if (f / INDEX_FILE).exists()}
    return {"split": split, "stages": stages, "evaluation": settings_of(config.evaluation), "codes": codes}


def is_reported(run: RunFolder) -> bool:
    """Whether the page is newer than everything it is made from."""
    if not run.report.exists():
        return False
    sources = [run.config_file, run.metrics, run.timing, run.evaluation, run.scorecard]
    sources.append(run.tokenizers / SETTINGS_FILE)
    sources += list_checkpoints(run.checkpoints)
    return all(not s.exists() or s.stat().st_mtime_ns < run.report.stat().st_mtime_ns for s in sources)
