"""How a run is doing, told from its files: how far, how fast, what was useful of its time, and what went wrong."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unimodel.config import RunConfig
from unimodel.run_folder import RunFolder, read_json_lines
from unimodel.training.checkpoint import list_checkpoints

RECENT_STEPS = 50
GRADIENT_NORM = "gradient_norm/"
BLOWN_UP = 10.0
"""Times the median from which on a modality's gradient norm is worth a line."""

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
        utilisation = _utilisation(recent)
        yield "speed", f"{seconds:.3f} s a step, {tokens:,.0f} tokens/s{utilisation} (median of {len(recent)} steps)"
    ranks = read_json_lines(run.ranks)
    if ranks and len(ranks[-1]["forward_seconds"]) > 1:
        yield "slowest rank", _slowest(ranks[-1])
    if starts and timing:
        yield "time", _goodput(starts, timing, max(now if _is_running(run, now) else 0.0, run.timing.stat().st_mtime))
        yield "starts", f"{len(starts)}, the last on {starts[-1]['ranks']} ranks from step {starts[-1]['step']}"
    saved = list_checkpoints(run.checkpoints)
    if saved:
        yield "checkpoints", f"{len(saved)}, newest {saved[0].name}, {_ago(saved[0], now)} ago"
    blown_up = _blown_up(metrics)
    if blown_up:
        yield "gradients", blown_up
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


def _utilisation(timing: Sequence[dict[str, Any]]) -> str:
    """Operations per second, and their share of the device's peak where it is known."""
    tflops = [line["tflops_per_second_per_device"] for line in timing if "tflops_per_second_per_device" in line]
    mfu = [line["mfu"] for line in timing if "mfu" in line]
    told = f", {statistics.median(tflops):.3g} TFLOP/s a device" if tflops else ""
    return told + (f", MFU {statistics.median(mfu):.1%}" if mfu else "")


def _slowest(line: dict[str, Any]) -> str:
    """Of a line of ranks.jsonl."""
    rank, seconds, median = line["slowest"]["rank"], line["slowest"]["seconds"], line["median_seconds"]
    times = f"{seconds / median:.2f} times the median" if median else f"{seconds:.3f} s"
    parts = f"data {line['loading_seconds'][rank]:.3f} s, forward {line['forward_seconds'][rank]:.3f} s"
    return f"{rank} on {line['slowest']['host']}: {times} by itself ({parts}), up to step {line['step']}"


def _blown_up(metrics: Sequence[dict[str, Any]]) -> str:
    """Modalities whose gradient was, in one of the last steps, far off what it mostly is. A skipped step whose loss was
    dropped has no finite one and does not count."""
    told = []
    lines = [line for line in metrics if any(line[name] is not None for name in line if name.startswith(GRADIENT_NORM))]
    for name in sorted({name for line in lines for name in line if name.startswith(GRADIENT_NORM)}):
        norms = {line["step"]: math.inf if line[name] is None else line[name] for line in lines if name in line}
        label, middle = name.removeprefix(GRADIENT_NORM), statistics.median(norms.values())
        step = max(list(norms)[-RECENT_STEPS:], key=norms.__getitem__)
        if norms[step] == math.inf:
            told.append(f"{label} not finite at step {step}")
        elif norms[step] > BLOWN_UP * middle > 0:
            told.append(f"{label} {norms[step] / middle:.0f} times its median at step {step}")
    return ", ".join(told)


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
