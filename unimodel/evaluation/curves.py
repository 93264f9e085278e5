"""A figure by step, with what it stands beside, as `evaluation.json` keeps it and the report draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unimodel.evaluation.table import Estimate, rounded

FROM_THE_GIVEN = "steps from the given frames"
MODEL = "model"


@dataclass(frozen=True, slots=True)
class Line:
    """One estimate per step."""

    name: str
    estimates: list[Estimate]


@dataclass(frozen=True, slots=True)
class Curve:
    """Lines over the same `steps`; `samples[i]` held-out episodes reach `steps[i]`."""

    title: str
    unit: str
    steps: list[int]
    samples: list[int]
    lines: list[Line]
    along: str = FROM_THE_GIVEN
    """What `steps` counts."""

    def to_dict(self) -> dict[str, Any]:
        lines = [
            {
                "name": line.name,
                "values": [rounded(one.value) for one in line.estimates],
                "low": [rounded(one.low) for one in line.estimates],
                "high": [rounded(one.high) for one in line.estimates],
            }
            for line in self.lines
        ]
        about = {"title": self.title, "unit": self.unit, "along": self.along}
        return about | {"steps": self.steps, "samples": self.samples, "lines": lines}
