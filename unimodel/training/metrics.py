"""What a step leaves behind: a line of metrics, a line of timing, and what a person reads of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from data_pipelines.stream.loader import StepBatch
from unimodel.config import StageConfig
from unimodel.training.checkpoint import TrainPosition
from unimodel.training.data import entry_name
from unimodel.training.step import StepOutcome, StepReport


def metrics_line(
    position: TrainPosition, stage: StageConfig, step: StepBatch, report: StepReport, rate: float
) -> dict[str, Any]:
    """A pure function of the config: equal however often the run was killed. `position` is that after the step."""
    sources: Counter[str] = Counter()
    for entry, tokens in zip(stage.mixture, step.tokens, strict=True):
        sources[f"tokens/{entry_name(entry)}"] += tokens
    return {
        "step": position.step,
        "stage": position.stage,
        "loss": _finite(report.loss),
        **{f"loss/{name}": _finite(value) for name, value in report.objective_losses.items()},
        **{f"nats/{name}": _finite(value) for name, value in report.modality_nats.items()},
        **{f"accuracy/{name}": value for name, value in report.modality_accuracy.items()},
        "learning_rate": rate,
        "gradient_norm": report.gradient_norm,
        "tokens": report.tokens,
        **sources,
        "padding_fraction": round(report.padding_fraction, 6),
        **({"skipped": True} if report.skipped else {}),
    }


def timing_line(
    position: TrainPosition, report: StepReport, seconds: float, loading: float, saving: float
) -> dict[str, Any]:
    """What depends on the machine. `saving` is how long the loop stood still for checkpoints before the step."""
    return {
        "step": position.step,
        "seconds": round(seconds, 4),
        "loading_seconds": round(loading, 4),
        "loading_share": round(loading / seconds, 4),
        **({"saving_seconds": round(saving, 4)} if saving else {}),
        "tokens_per_second": round(report.tokens / seconds, 1),
    }


def counted_losses(lines: Sequence[dict[str, Any]], stage: str) -> list[float]:
    """Of metrics lines: the losses of a stage's steps that were not skipped."""
    return [line["loss"] for line in lines if line["stage"] == stage and not line.get("skipped")]


def skips_in_a_row(lines: Sequence[dict[str, Any]], stage: str) -> int:
    """Of metrics lines: how many of a stage's last steps were skipped."""
    count = 0
    for line in reversed(lines):
        if line["stage"] != stage or not line.get("skipped"):
            break
        count += 1
    return count


def describe(outcome: StepOutcome, seconds: float) -> str:
    """The part of a progress line that the step measured."""
    report = outcome.report
    losses = " ".join(f"{name} {value:.3f}" for name, value in report.objective_losses.items())
    accuracy = " ".join(f"{name} {100 * value:.0f}%" for name, value in report.modality_accuracy.items())
    figures = " ".join(f"{name} {value:.3f}" for name, value in outcome.figures.items())
    return f"loss {losses} | {accuracy or figures} | {report.tokens / seconds:,.0f} tokens/s"


def _finite(value: float) -> float | None:
    """JSON has no number that is not finite."""
    return value if math.isfinite(value) else None
