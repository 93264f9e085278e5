"""All that an evaluation finds, as `evaluation.json` keeps it (docs/evaluation.md has its schema)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from unimodel.evaluation.curves import Curve
from unimodel.evaluation.table import Row


@dataclass(slots=True)
class Findings:
    """`rows` are the table, each with a baseline to beat; `details` say more about it, or have no fair baseline.

    branches      accuracy of the counterfactual test by number of outcomes
    reliability   after "real" and "own" frames: by tenth of the probability of an end, how often it came
    """

    rows: list[Row] = field(default_factory=list)
    details: list[Row] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    branches: list[dict[str, Any]] = field(default_factory=list)
    reliability: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, rows: Sequence[Row], details: Sequence[Row] = (), curves: Sequence[Curve] = ()) -> None:
        self.rows += rows
        self.details += details
        self.curves += curves

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": [row.to_dict() for row in self.rows],
            "details": [row.to_dict() for row in self.details],
            "curves": [curve.to_dict() for curve in self.curves],
            "branches": self.branches,
            "reliability": self.reliability,
        }
