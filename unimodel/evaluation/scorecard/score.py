"""A line of the score card: what a property is measured by, what it stands beside, and what it must reach."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from unimodel.evaluation.table import Estimate, rounded

Property = Literal["persistence", "agency", "emergence", "coherence", "compression", "alignment"]
PROPERTIES: tuple[Property, ...] = (
    "persistence",
    "agency",
    "emergence",
    "coherence",
    "compression",
    "alignment",
)
"""Three of a world and three that challenge it (arXiv 2510.20668)."""

MODEL, WINDOW, COPY = "model", "window only", "copy last"
PREDICTORS = (MODEL, WINDOW, COPY)
"""The model; the same one with nothing but a short window; the world that stays as it is."""
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Gate:
    """What a figure must reach: so much of the way from its baseline to its floor. With `is_sure`, it must also be
    better than the baseline at either end of its interval."""

    least_way: float
    is_sure: bool = True


@dataclass(frozen=True, slots=True)
class Definition:
    """What a score is.

    formula   in words
    baseline  what its baseline is
    floor     what its noise floor is: how well the real world does beside itself; "" where there is none, and then the
              gate asks for its interval alone
    """

    name: str
    of: Property
    formula: str
    baseline: str
    floor: str
    gate: Gate
    unit: str = ""
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Score:
    """A definition with its `figures`, by predictor (one that cannot have it is not there), over so many `samples`.
    Without the model's it is not measured, and `missing` says why."""

    definition: Definition
    figures: Mapping[str, Estimate] = field(default_factory=dict)
    baseline: float = math.nan
    floor: float | None = None
    samples: int = 0
    missing: str = ""
    about: str = ""
    """What else a reader should know."""

    def passes(self, predictor: str = MODEL) -> bool | None:
        """Whether the gate lets a predictor through; None of one that has no figure."""
        figure = self.figures.get(predictor)
        return None if figure is None else gate(self.definition, figure, self.baseline, self.floor)

    def way(self, predictor: str = MODEL) -> float | None:
        """How far it is from the baseline (0) to the floor (1); None where there is no such way."""
        figure = self.figures.get(predictor)
        if figure is None or self.floor is None or self.floor == self.baseline:
            return None
        return (figure.value - self.baseline) / (self.floor - self.baseline)

    @property
    def needed(self) -> float:
        """What the gate asks of the value."""
        return target(self.definition.gate, self.baseline, self.floor)

    def to_dict(self) -> dict[str, Any]:
        one = self.definition
        return {
            "name": one.name,
            "property": one.of,
            "formula": one.formula,
            "unit": one.unit,
            "higher_is_better": one.higher_is_better,
            "figures": {name: _told(self, name) for name in self.figures},
            "baseline": rounded(self.baseline),
            "baseline_name": one.baseline,
            "floor": rounded(self.floor),
            "floor_name": one.floor,
            "gate": {"value": rounded(self.needed), "least_way": one.gate.least_way, "is_sure": one.gate.is_sure},
            "passed": self.passes(),
            "samples": self.samples,
            "not_measured": self.missing,
            "about": self.about,
        }


def not_measured(definition: Definition, why: str) -> Score:
    """Never a pass."""
    return Score(definition, missing=why)


def measured(
    definition: Definition,
    figures: Mapping[str, Estimate],
    baseline: float,
    floor: float | None,
    samples: int,
    about: str = "",
) -> Score:
    """A score; one whose baseline is as good as reality tells nobody apart and counts as not measured."""
    if not any(name == MODEL and math.isfinite(one.value) for name, one in figures.items()):
        return not_measured(definition, "no held-out episode asks for it")
    sign = 1 if definition.higher_is_better else -1
    if definition.gate.is_sure and floor is not None and not sign * (floor - baseline) > ROUNDING:
        why = f"{definition.baseline} scores {baseline:.3g} and reality {floor:.3g}: it tells no model apart"
        return not_measured(definition, why)
    there = {name: _plain(one) for name, one in figures.items() if not math.isnan(one.value)}
    return Score(definition, there, float(baseline), None if floor is None else float(floor), samples, about=about)


def target(gate: Gate, baseline: float, floor: float | None) -> float:
    """The value that the gate asks for."""
    return baseline if floor is None else baseline + gate.least_way * (floor - baseline)


def gate(definition: Definition, figure: Estimate, baseline: float, floor: float | None) -> bool:
    """Whether a figure reaches what `definition.gate` asks for. One without an interval is not sure of anything."""
    sign = 1 if definition.higher_is_better else -1
    if sign * (figure.value - target(definition.gate, baseline, floor)) < -ROUNDING:
        return False
    if not definition.gate.is_sure:
        return True
    if figure.interval is None:
        return False
    return all(sign * (end - baseline) > 0 for end in figure.interval)


def _plain(figure: Estimate) -> Estimate:
    """In numbers of Python, whose comparisons JSON can hold."""
    return Estimate(float(figure.value), float(figure.low), float(figure.high))


def _told(score: Score, predictor: str) -> dict[str, Any]:
    figure = score.figures[predictor]
    ends = None if figure.interval is None else [rounded(end) for end in figure.interval]
    return {
        "value": rounded(figure.value),
        "interval": ends,
        "way": rounded(score.way(predictor)),
        "passed": score.passes(predictor),
    }
