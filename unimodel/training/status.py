"""How a run is doing, told from its files: how far, how fast, what was useful of its time, and what went wrong."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unimodel.config import RunConfig
from unimodel.run_folder import RunFolder, read_json_lines
from unimodel.training.checkpoint import list_checkpoints

RECENT_STEPS = 50

Line = tuple[str, str]
"""What, and how it is."""


def run_status(path: Path, now: float | None = None) -> Iterator[Line]:
    """Lines for a person. Raises FileNotFoundError when `path` is no run folder."""
    run = RunFolder(path)
    config = run.config()
    now = time.time() if now is None else now
    metrics, timing, starts = (read_json_lines(file) for file in (run.metrics, run.timing, run.starts))
    yield "progress", _progress(config, metrics, timing)
    if metrics:
        last = metrics[-1]
        loss = "skipped" if last["loss"] is None else f"{last['loss']:.4f}"
        yield "last step", f"loss {loss}, learning rate {last['learning_rate']:.2e}, {_ago(run.timing, now)} ago"
    if timing:
        recent = timing[-RECENT_STEPS:]
        seconds, tokens = (
            statistics.median(line[name] for line in recent) for name in ("seconds", "tokens_per_second")
        )
        yield "speed", f"{seconds:.3f} s a step, {tokens:,.0f} tokens/s (median of {len(recent)} steps)"
    if starts and timing:
        yield "time", _goodput(starts, timing, max(now if _is_running(run, now) else 0.0, run.timing.stat().st_mtime))
        yield "starts", f"{len(starts)}, the last on {starts[-1]['ranks']} ranks from step {starts[-1]['step']}"
    saved = list_checkpoints(run.checkpoints)
    if saved:
        yield "checkpoints", f"{len(saved)}, newest {saved[0].name}, {_ago(saved[0], now)} ago"
    for what, file in (("unreadable samples", run.quarantine), ("skipped steps", run.skipped)):
        if file.exists() and file.stat().st_size:
            yield what, f"{len(read_json_lines(file))}, listed in {file}"
    if run.stacks.exists() and any(file.stat().st_size for file in run.stacks.iterdir()):
        yield "hung", f"stacks of ranks that were killed: {run.stacks}"


def _progress(config: RunConfig, metrics: Sequence[dict[str, Any]], timing: Sequence[dict[str, Any]]) -> str:
    total = sum(stage.steps for stage in config.stages.values())
    done = metrics[-1]["step"] if metrics else 0
    stage = metrics[-1]["stage"] if metrics else config.ordered_stages[0][0]
    left = ""
    if timing and done < total:
        seconds = (total - done) * statistics.median(line["seconds"] for line in timing[-RECENT_STEPS:])
        left = f", about {_duration(seconds)} left at this stage's speed"
    return f"step {done:,} of {total:,}, stage {stage}{left}"


def _goodput(starts: Sequence[dict[str, Any]], timing: Sequence[dict[str, Any]], end: float) -> str:
    """Useful time over wall time, and where the rest went. Steps that were lost have no line any more: their time is
    in what is left."""
    wall = end - starts[0]["time"]
    loading = sum(line["loading_seconds"] for line in timing)
    saving = sum(line.get("saving_seconds", 0.0) for line in timing)
    useful = sum(line["seconds"] for line in timing) - loading
    rest = max(0.0, wall - useful - loading - saving)
    shares = {"steps": useful, "waiting for data": loading, "saving": saving, "starting, lost and idle": rest}
    return f"{_duration(wall)}: " + ", ".join(f"{share / wall:.1%} {name}" for name, share in shares.items())


def _is_running(run: RunFolder, now: float) -> bool:
    return now - run.timing.stat().st_mtime < 60.0


def _ago(path: Path, now: float) -> str:
    return _duration(max(0.0, now - path.stat().st_mtime))


def _duration(seconds: float) -> str:
    days, rest = divmod(int(seconds), 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, seconds = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{seconds:02} min"
