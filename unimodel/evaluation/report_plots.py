"""The report's training curves: inline SVG that takes the page's font and its light or dark colours."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

WIDTH_INCHES, HEIGHT_INCHES = 4.6, 2.1
RAW_POINTS = 400
"""A longer raw line is thinned to this many points: more are not visible at this size."""
SMOOTHING_FRACTION = 1 / 30
"""Half width of the moving average, as a fraction of the stage's steps."""
COLOURS = {"text": "#e8833a", "image": "#2f7ed8", "action": "#c2528b", "reward": "#2aa198", "done": "#8a6fd1"}
"""A modality keeps its colour through all charts. Mid tones: legible on white and on near black."""
OTHER_COLOURS = ("#2aa198", "#c2528b", "#8a6fd1", "#8a8f98", "#a98a1f")
"""Of what is no modality."""
TEXT, GRID = "#0a0b0c", "#0d0e0f"
"""Stand-ins that become the page's own colours."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "text.color": TEXT,
    "axes.edgecolor": GRID,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "ytick.major.size": 0,
    "xtick.major.size": 0,
    "axes.axisbelow": True,
}


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart and its entry in the legend."""

    label: str
    colour: str
    last: str
    """Its smoothed value at the end, as text."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture of curves. `svg` is inline markup; `alt` says in words what it shows."""

    title: str
    svg: str
    series: tuple[Series, ...]
    alt: str


def stage_charts(stage: str, metrics: list[dict[str, Any]], timing: list[dict[str, Any]]) -> list[Chart]:
    """Loss per objective, accuracy per modality, learning rate and speed of one stage, from its lines of
    `metrics.jsonl` and `timing.jsonl`."""
    panels: list[tuple[str, list[dict[str, Any]], dict[str, str], Callable[[float], str]]] = [
        ("Loss per objective", metrics, _keys(metrics, "loss/"), lambda value: f"{value:.2f}"),
        ("Accuracy on target tokens, per modality", metrics, _keys(metrics, "accuracy/"), lambda value: f"{value:.0%}"),
        ("Learning rate", metrics, {"learning_rate": "learning rate"}, _short_number),
        ("Tokens per second", timing, {"tokens_per_second": "tokens/s"}, _short_number),
    ]
    charts = [_chart(f"{stage} {number}", *panel) for number, panel in enumerate(panels)]
    return [chart for chart in charts if chart is not None]


def _keys(lines: list[dict[str, Any]], prefix: str) -> dict[str, str]:
    """Key -> label, in order of first appearance."""
    return {key: key.removeprefix(prefix) for line in lines for key in line if key.startswith(prefix)}


def _chart(
    salt: str, title: str, lines: list[dict[str, Any]], labels: dict[str, str], say_value: Callable[[float], str]
) -> Chart | None:
    """None when no line holds any of the keys."""
    series: list[Series] = []
    with matplotlib.rc_context(cast(Any, {**STYLE, "svg.hashsalt": salt})):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        axes: Axes = figure.add_subplot()
        for key, label in labels.items():
            points = [(line["step"], line[key]) for line in lines if isinstance(line.get(key), int | float)]
            points = [(step, value) for step, value in points if math.isfinite(value)]
            if points:
                colour = COLOURS.get(label, OTHER_COLOURS[len(series) % len(OTHER_COLOURS)])
                half_width = 0 if key == "learning_rate" else max(1, round(len(points) * SMOOTHING_FRACTION))
                series.append(Series(label, colour, say_value(_draw(axes, points, colour, half_width))))
        if not series:
            return None
        _dress(axes, title, say_value)
        svg = inline_svg(figure)
    ends = ", ".join(f"{one.label} ends at {one.last}" for one in series)
    return Chart(title, svg, tuple(series), f"{title} over training steps: {ends}.")


def _draw(axes: Axes, points: list[tuple[int, float]], colour: str, half_width: int) -> float:
    """A smooth line over the faint raw one; returns the smooth line's last value."""
    steps = np.array([step for step, _ in points])
    values = np.array([value for _, value in points])
    smooth = moving_average(values, half_width)
    thinned = np.unique(np.linspace(0, len(steps) - 1, RAW_POINTS).round().astype(int))
    axes.plot(steps[thinned], values[thinned], color=colour, linewidth=0.7, alpha=0.3)
    marker = "o" if len(steps) == 1 else None
    axes.plot(
        steps[thinned],
        smooth[thinned],
        color=colour,
        linewidth=1.7,
        solid_capstyle="round",
        marker=marker,
        markersize=4,
    )
    return float(smooth[-1])


def moving_average(values: np.ndarray, half_width: int) -> np.ndarray:
    """The mean over up to `half_width` neighbours on either side, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reach = np.minimum(half_width, np.minimum(places, len(values) - 1 - places) + half_width // 2)
    start, stop = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    return (sums[stop] - sums[start]) / (stop - start)


def _dress(axes: Axes, title: str, say_value: Callable[[float], str]) -> None:
    axes.set_xlabel("step of the run")
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if title.startswith("Accuracy"):
        axes.set_ylim(0, 1.03)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    else:
        axes.set_ylim(bottom=0)
    if not title.startswith("Loss"):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: say_value(value)))


def inline_svg(figure: Figure) -> str:
    """The figure as markup for inside an HTML page: no prologue, no metadata, no outside name."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg, count=1
    )
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = svg.replace("xlink:href", "href").replace(TEXT, "var(--soft)").replace(GRID, "var(--line)")
    return re.sub(r"\s*\n\s*", "\n", svg)


def _short_number(value: float) -> str:
    """1234.5 -> 1,234; 0.00143 -> 0.00143."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
