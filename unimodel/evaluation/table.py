"""One line of the result table: a figure of the model beside its baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

UNBOUNDED = math.inf
"""The PSNR of frames that are exactly right. JSON has no such number and gets null."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95% interval; nan ends where there is none, as for a single episode."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        ends = "" if self.interval is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}{ends}"

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if math.isnan(self.low) or math.isnan(self.high) else (self.low, self.high)


@dataclass(frozen=True, slots=True)
class Row:
    """`higher_is_better` decides what "better" means; `samples` says how many held-out items the figure rests on.

    A figure of the table has a baseline that a model can fail to beat; one of the details may have None.
    """

    metric: str
    stage: str
    model: float
    baseline: float | None
    baseline_name: str
    samples: int
    unit: str = ""
    higher_is_better: bool = True
    required: float | None = None
    """A bar beside the baseline that the model must reach too."""
    interval: tuple[float, float] | None = None
    """95%, of the model's figure."""
    ceiling: float | None = None
    """What no model could exceed, where that is known."""

    @property
    def better(self) -> bool | None:
        if self.baseline is None:
            return None
        sign = 1 if self.higher_is_better else -1
        bars = [self.baseline] if self.required is None else [self.baseline, self.required]
        return all(sign * (self.model - bar) > 0 for bar in bars)

    def to_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "stage": self.stage,
            "model": rounded(self.model),
            "interval": None if self.interval is None else [rounded(end) for end in self.interval],
            "baseline": rounded(self.baseline),
            "ceiling": rounded(self.ceiling),
            "better": self.better,
            "unit": self.unit,
            "baseline_name": self.baseline_name,
            "required": self.required,
            "higher_is_better": self.higher_is_better,
            "samples": self.samples,
        }


def rounded(value: float | None) -> float | None:
    """To four places; None for what JSON cannot hold."""
    return round(value, 4) if value is not None and math.isfinite(value) else None


def table_lines(rows: list[dict[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """(metric, stage, model with its interval, baseline, better?) as text."""
    lines = []
    for row in rows:
        baseline = row["baseline_name"]
        if row["baseline"] is not None:
            baseline = f"{row['baseline']:.3f} ({baseline})" if baseline else f"{row['baseline']:.3f}"
        if row["required"] is not None:
            baseline += f", required {row['required']:g}"
        if row.get("ceiling") is not None:
            baseline += f", ceiling {row['ceiling']:.3f}"
        model = f"{_text(row['model'])} {row['unit']}".strip()
        if row.get("interval"):
            model += f" [{', '.join(map(_text, row['interval']))}]"
        better = {True: "yes", False: "NO", None: ""}[row["better"]]
        lines.append((row["metric"], row["stage"], model, baseline, better))
    return lines


def _text(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.3f}"
