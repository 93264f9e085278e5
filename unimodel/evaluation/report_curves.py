"""The report's charts of held-out figures by step: the model with its interval, the baseline and the ceiling."""

from __future__ import annotations

from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from unimodel.evaluation.curves import FROM_THE_GIVEN, MODEL
from unimodel.evaluation.report_plots import HEIGHT_INCHES, STYLE, WIDTH_INCHES, Chart, Series, inline_svg

COLOURS = ("#2f7ed8", "#c0702c", "#2aa198")
"""Model, baseline, ceiling."""
QUARTERS = [0, 0.25, 0.5, 0.75, 1]
SHARES = ("Changed token accuracy",)
"""Titles of curves whose figures are shares of 1."""
MARKED_POINTS = 6
"""Up to so many points are marked: a line alone would hide how few they are."""


def curve_chart(curve: dict[str, Any]) -> Chart:
    """One curve of `evaluation.json`."""
    steps, series, said = np.array(curve["steps"]), [], []
    with matplotlib.rc_context(cast(Any, {**STYLE, "svg.hashsalt": curve["title"]})):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        axes: Axes = figure.add_subplot()
        for line, colour in zip(curve["lines"], COLOURS, strict=False):
            values, low, high = (np.array(line[key], dtype=float) for key in ("values", "low", "high"))
            if line["name"] == MODEL:
                axes.fill_between(steps, low, high, color=colour, alpha=0.16, linewidth=0)
            marker = "o" if len(steps) <= MARKED_POINTS else None
            axes.plot(steps, values, color=colour, linewidth=1.7, marker=marker, markersize=3.5)
            ends = [_say(curve, line["values"][at]) for at in (0, -1)]
            series.append(Series(line["name"], colour, ends[1]))
            said.append(f"{line['name']} {ends[0]} at first and {ends[1]} at the end")
        axes.set_xlabel(curve.get("along", FROM_THE_GIVEN))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.02)
        if curve["title"] in SHARES:
            axes.set_ylim(0, 1.03)
            axes.set_yticks(QUARTERS)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        elif curve["title"] == "Feature distance":
            axes.set_ylim(bottom=0)
        svg = inline_svg(figure)
    unit = f", {curve['unit']}" if curve["unit"] else ""
    return Chart(curve["title"] + unit, svg, tuple(series), f"{curve['title']} by step: {'; '.join(said)}.")


def reliability_chart(reliability: dict[str, list[dict[str, Any]]]) -> Chart:
    """How often an episode ended, by how likely the model said it was; on the diagonal it is right to say so."""
    series, said = [], []
    with matplotlib.rc_context(cast(Any, {**STYLE, "svg.hashsalt": "reliability"})):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        axes: Axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=STYLE["grid.color"], linewidth=1.2)
        for (after, bins), colour in zip(reliability.items(), COLOURS, strict=False):
            most = max(one["steps"] for one in bins)
            x, y = [one["said"] for one in bins], [one["ended"] for one in bins]
            sizes = [14 + 60 * (one["steps"] / most) ** 0.5 for one in bins]
            axes.plot(x, y, color=colour, linewidth=1.2)
            axes.scatter(x, y, sizes, color=colour, alpha=0.75, linewidths=0)
            steps = f"{sum(one['steps'] for one in bins):,} steps"
            series.append(Series(f"after {after} frames", colour, steps))
            points = ", ".join(f"{a:.0%} said, {b:.0%} came" for a, b in zip(x, y, strict=True))
            said.append(f"after {after} frames: {points}")
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.05, 1.05)
        axes.set_xlabel("probability of the end that the model told")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(QUARTERS)
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        svg = inline_svg(figure)
    return Chart("How often the end came", svg, tuple(series), f"Ends of episodes, {'; '.join(said)}.")


def _say(curve: dict[str, Any], value: float | None) -> str:
    if value is None:
        return "exact"  # an infinite PSNR
    if curve["title"] in SHARES:
        return f"{value:.0%}"
    return f"{value:.3f}" if curve["title"] == "SSIM" else f"{value:.1f}"
