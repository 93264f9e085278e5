"""Who comes first on a score card: of its scores as `scorecard.json` has them, without any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unimodel.evaluation.scorecard.score import MODEL, PREDICTORS


def standing(scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The predictors, best first, by the gates that they pass; who passes as many shares the `place`. Beside it the
    mean of the way from baseline to floor, each between 0 and 1. Only scores that all of them have are counted: a world
    in which nothing happens must not win by what it has not."""
    shared = [score for score in scores if all(name in score["figures"] for name in PREDICTORS)]
    places = []
    for name in PREDICTORS:
        figures = [score["figures"][name] for score in shared]
        ways = [min(1.0, max(0.0, figure["way"])) for figure in figures if figure["way"] is not None]
        places.append(
            {
                "predictor": name,
                "passed": sum(figure["passed"] for figure in figures),
                "of": len(shared),
                "mean_way": round(sum(ways) / len(ways), 4) if ways else 0.0,
            }
        )
    places = sorted(places, key=lambda one: -one["passed"])
    return [{"place": 1 + sum(other["passed"] > one["passed"] for other in places), **one} for one in places]


def verdict(scores: Sequence[Mapping[str, Any]]) -> str:
    """How many gates the model passes, and which it does not."""
    counted = [score for score in scores if MODEL in score["figures"]]
    failed = [score["name"] for score in counted if not score["passed"]]
    missing = len(scores) - len(counted)
    said = f"{len(counted) - len(failed)} of {len(counted)} gates passed, {missing} scores not measured"
    return f"{said}; failed: {', '.join(failed)}" if failed else said


@dataclass(frozen=True, slots=True)
class Line:
    """A score as text; `figures` of every predictor."""

    of: str
    name: str
    figures: tuple[str, ...]
    baseline: str
    real: str
    needed: str
    passed: bool
    formula: str
    about: str


def card_lines(card: Mapping[str, Any]) -> list[Line]:
    """Of the scores that are measured."""
    lines = []
    for score in card["scores"]:
        if MODEL not in score["figures"]:
            continue
        gate, higher = score["gate"], score["higher_is_better"]
        only_sure = score["floor"] is None and gate["is_sure"]
        sign = (">" if higher else "<") if only_sure else ("≥" if higher else "≤")
        lines.append(
            Line(
                score["property"],
                score["name"] + (f", {score['unit']}" if score["unit"] else ""),
                tuple(_figure(score["figures"].get(name), name == MODEL) for name in PREDICTORS),
                _number(score["baseline"]),
                "" if score["floor"] is None else _number(score["floor"]),
                f"{sign} {_number(gate['value'])}",
                score["passed"],
                f"{score['formula']}; baseline: {score['baseline_name']}",
                score["about"],
            )
        )
    return lines


def place_lines(card: Mapping[str, Any]) -> list[str]:
    """Who comes first, as text."""
    return [
        f"{place['place']}. {place['predictor']}: {place['passed']} of the {place['of']} gates that all three have, "
        f"{place['mean_way']:.0%} of the way from the baselines to reality"
        for place in card["standing"]
    ]


def _figure(figure: Mapping[str, Any] | None, with_interval: bool) -> str:
    if figure is None:
        return "-"
    ends = figure["interval"]
    said = _number(figure["value"])
    return f"{said} [{', '.join(map(_number, ends))}]" if with_interval and ends else said


def _number(value: float | None) -> str:
    if value is None:
        return "unbounded"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
