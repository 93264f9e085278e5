"""One line of the result table: a figure of the model beside its baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """`higher_is_better` decides what "better" means; `samples` says how many held-out items the figure rests on."""

    metric: str
    stage: str
    model: float
    baseline: float
    baseline_name: str
    samples: int
    unit: str = ""
    higher_is_better: bool = True
    required: float | None = None
    """A bar beside the baseline that the model must reach too."""

    @property
    def better(self) -> bool:
        sign = 1 if self.higher_is_better else -1
        bars = [self.baseline] if self.required is None else [self.baseline, self.required]
        return all(sign * (self.model - bar) > 0 for bar in bars)

    def to_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "stage": self.stage,
            "model": round(self.model, 4),
            "baseline": round(self.baseline, 4),
            "better": self.better,
            "unit": self.unit,
            "baseline_name": self.baseline_name,
            "required": self.required,
            "higher_is_better": self.higher_is_better,
            "samples": self.samples,
        }


def table_lines(rows: list[dict[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """(metric, stage, model, baseline, better?) as text."""
    lines = []
    for row in rows:
        baseline = f"{row['baseline']:.3f} ({row['baseline_name']})"
        if row["required"] is not None:
            baseline += f", required {row['required']:g}"
        model = f"{row['model']:.3f} {row['unit']}".strip()
        lines.append((row["metric"], row["stage"], model, baseline, "yes" if row["better"] else "NO"))
    return lines
