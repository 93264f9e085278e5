"""`unimodel report`: one page about a run - figures against baselines, curves, and generated beside real.

The page is self-contained (style and pictures inline, no script) and is made from what lies in the run folder; what the
run does not have yet is left out with a line that says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import torch

from data_pipelines.shards.index import read_manifest
from data_pipelines.shards.storage import join
from unimodel.config import RunConfig
from unimodel.evaluation.held_out import HeldOut, load_held_out
from unimodel.evaluation.report_card import reported_card
from unimodel.evaluation.report_curves import curve_chart, reliability_chart
from unimodel.evaluation.report_plots import Chart, stage_charts
from unimodel.evaluation.report_samples import counterfactual, descriptions, drawings, reconstructions, rollouts
from unimodel.run_folder import RunFolder, read_json, read_json_lines, write_atomically
from unimodel.tokenizers.bundle import TokenizerBundle
from unimodel.tokenizers.prepare import load_run_bundle
from unimodel.training.finished import finished_stages
from unimodel.training.loaded_run import LoadedRun, load_run

TEMPLATE = "report.html.j2"

CLOCK_TICK_NS = 20_000_000
"""File systems date files by a clock that ticks every few milliseconds; two writes within a tick have the same date."""


@dataclass(frozen=True, slots=True)
class StageProgress:
    """How far a stage has come, and its curves."""

    number: int
    name: str
    steps_done: int
    steps: int
    objectives: str
    tokens: int
    charts: list[Chart]

    @property
    def status(self) -> str:
        if self.steps_done >= self.steps:
            return f"finished, {self.steps:,} steps"
        return f"{self.steps_done:,} of {self.steps:,} steps" if self.steps_done else "not started"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with pictures: `content` for its macro in the template, or why it was left out."""

    kind: str
    title: str
    about: str
    source: str = ""
    content: Any = None
    left_out: str = ""


@dataclass(slots=True)
class _Materials:
    """Loaded once, when a section first asks. Raises FileNotFoundError or ValueError where the run lacks something."""

    path: Path
    config: RunConfig
    _bundle: TokenizerBundle | None = None
    _held_out: HeldOut | None = None
    _models: dict[str, LoadedRun] = field(default_factory=dict)

    def bundle(self) -> TokenizerBundle:
        self._bundle = self._bundle or load_run_bundle(RunFolder(self.path))
        return self._bundle

    def held_out(self) -> HeldOut:
        if self._held_out is None:
            bundle = self.bundle()
            run, eos_id = RunFolder(self.path), bundle.builder.eos_id
            self._held_out = load_held_out(self.config, run, "test", bundle.vocabulary, eos_id)
        return self._held_out

    def action_names(self) -> tuple[str, ...]:
        """Of the action tokens."""
        known = read_manifest(join(self.config.data.folder, "test")).metadata.get("action_names", [])
        return self.bundle().action_names(known)

    def model_of(self, sequence: str) -> LoadedRun:
        """The last finished stage that was trained on `sequence`."""
        taught = [name for name, s in self.config.ordered_stages if sequence in s.skills]
        if not taught:
            raise FileNotFoundError(f"no stage of this run is trained on {sequence.replace('_', ' ')}")
        finished = finished_stages(RunFolder(self.path), taught)
        if not finished:
            raise FileNotFoundError(f"stage {' and stage '.join(taught)} not finished yet")
        stage = list(finished)[-1]
        if stage not in self._models:
            self._models[stage] = load_run(self.path, stage)
        return self._models[stage]


def write_report(path: Path) -> Path:
    """Writes `report.html` of the run at `path` and returns where it lies.

    Raises FileNotFoundError when `path` is no run folder.
    """
    run = RunFolder(path)
    config = run.config()
    began = time.time_ns() - CLOCK_TICK_NS
    with torch.no_grad():
        page = render_report(run, config)
    write_atomically(run.report, page.encode())
    # Dated by what it has read: lines written meanwhile make it out of date.
    os.utime(run.report, ns=(began, began))
    return run.report


def render_report(run: RunFolder, config: RunConfig) -> str:
    """The page as HTML."""
    evaluation = read_json(run.evaluation) if run.evaluation.exists() else {}
    materials = _Materials(run.path, config)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("unimodel.evaluation", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    stages = stage_progress(run, config)
    rows = evaluation.get("rows", [])
    return environment.get_template(TEMPLATE).render(
        config=config,
        path=run.path,
        config_text=run.config_file.read_text(encoding="utf-8"),
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        stages=stages,
        seconds=sum(line.get("seconds", 0.0) for line in read_json_lines(run.timing)),
        rows=[_table_row(row) for row in rows],
        details=[_table_row(row) for row in evaluation.get("details", [])],
        card=reported_card(run, config),
        wants_card=any(stage.world is not None for _, stage in config.ordered_stages),
        headline=headline(rows, evaluation.get("details", [])),
        by_step=held_out_charts(evaluation),
        branches=evaluation.get("branches", []),
        warning=_evaluation_warning(run, config, evaluation),
        codebook=evaluation.get("codebook"),
        sections=[_section(materials, *parts) for parts in _SECTIONS],
    )


def headline(rows: list[dict[str, Any]], details: list[dict[str, Any]]) -> str:
    """How many figures beat their baseline, and how many details do not; empty without figures."""
    if not rows:
        return ""
    better = sum(row["better"] for row in rows)
    said = f"All {len(rows)}" if better == len(rows) else f"{better} of {len(rows)}"
    compared = [row["better"] for row in details if row["better"] is not None]
    missed = f" Of {len(compared)} in the details, {compared.count(False)} do not." if False in compared else ""
    return f"{said} figures beat their baseline.{missed}"


def held_out_charts(evaluation: dict[str, Any]) -> list[Chart]:
    """Figures by step, and how often the end came that was expected."""
    charts = [curve_chart(curve) for curve in evaluation.get("curves", [])]
    reliability = {after: bins for after, bins in evaluation.get("reliability", {}).items() if bins}
    return charts + ([reliability_chart(reliability)] if reliability else [])


def stage_progress(run: RunFolder, config: RunConfig) -> list[StageProgress]:
    """All stages of the config, in order, with the charts of those that have begun."""
    metrics, timing = read_json_lines(run.metrics), read_json_lines(run.timing)
    progress, before = [], 0
    for name, stage in config.ordered_stages:
        lines = [line for line in metrics if line["stage"] == name]
        steps = {line["step"] for line in lines}
        done = max(steps, default=before) - before
        kinds = {key: value.kind.replace("_", " ") for key, value in stage.objectives.items()}
        objectives = ", ".join(key if key == kind else f"{key} ({kind})" for key, kind in kinds.items())
        charts = stage_charts(name, lines, [line for line in timing if line["step"] in steps])
        tokens = sum(line.get("tokens", 0) for line in lines)
        progress.append(StageProgress(stage.number, name, done, stage.steps, objectives, tokens, charts))
        before += done  # an alignment stage may end before its last step
    return progress


def _evaluation_warning(run: RunFolder, config: RunConfig, evaluation: dict[str, Any]) -> str:
    """Says when the figures are missing or belong to other weights than those on disk."""
    if not evaluation:
        return "Not evaluated yet."
    evaluated = evaluation.get("state", {}).get("stages", {})
    now = finished_stages(run, [name for name, _ in config.ordered_stages])
    if now and evaluated != now:
        return "These figures are older than the checkpoints."
    return ""


def _table_row(row: dict[str, Any]) -> dict[str, Any]:
    lower_is_better = not row.get("higher_is_better", row["unit"] != "bits")
    interval = row.get("interval")
    return {
        **row,
        "model_text": _figure(row, row["model"]),
        "interval_text": " to ".join(_number(row, end) for end in interval) if interval else "",
        "baseline_text": "" if row["baseline"] is None else _figure(row, row["baseline"]),
        "ceiling_text": "" if row.get("ceiling") is None else _figure(row, row["ceiling"]),
        "lower_is_better": lower_is_better and row["better"] is not None,
    }


def _figure(row: dict[str, Any], value: float | None) -> str:
    """A figure with its unit."""
    return f"{_number(row, value)} {row['unit']}".strip()


def _number(row: dict[str, Any], value: float | None) -> str:
    """A figure without its unit: shares as percent."""
    if value is None:
        return "unbounded"
    if row["unit"]:
        return f"{value:.2f}"
    return f"{value:.1%}" if "accuracy" in row["metric"] else f"{value:.3f}"


def _section(
    materials: _Materials,
    kind: str,
    title: str,
    about: str,
    make: Callable[[_Materials], tuple[str, Any]],
) -> Section:
    """Runs one maker; a run that lacks what it needs loses the section, never the report."""
    try:
        source, content = make(materials)
    except (FileNotFoundError, ValueError) as error:
        return Section(kind, title, about, left_out=str(error))
    return Section(kind, title, about, source, content)


def _from_model(sequence: str, make: Callable[..., Any], materials: _Materials) -> tuple[str, Any]:
    loaded = materials.model_of(sequence)
    arguments = (materials.action_names(),) if sequence == "interaction" else ()
    source = f"Made with stage {loaded.stage} at step {loaded.step:,}, averaged weights."
    return source, make(loaded, materials.held_out(), *arguments)


def _from_tokenizer(materials: _Materials) -> tuple[str, Any]:
    return "", reconstructions(materials.bundle(), materials.held_out())


_SECTIONS: tuple[tuple[str, str, str, Callable[[_Materials], tuple[str, Any]]], ...] = (
    (
        "films",
        "Generated worlds",
        "The first held-out episodes that are long enough. Both rows start from the same two frames and take the same "
        "actions; from the third frame on, the lower row sees only its own frames. Under each generated frame: how "
        "many of its codes equal those of the real one.",
        partial(_from_model, "interaction", rollouts),
    ),
    (
        "branches",
        "One state, every action",
        "What the world does and what the model expects for each action from the same state. A generated frame obeys "
        "when the real frame nearest to it is the one of its own action (or of an action with the same outcome).",
        partial(_from_model, "interaction", counterfactual),
    ),
    (
        "pairs",
        "Text to image",
        "Held-out captions; the model sees the words alone. Codes equal to the real frame's are counted.",
        partial(_from_model, "text_to_image", drawings),
    ),
    (
        "texts",
        "Image to text",
        "Held-out frames; the caption is decoded greedily from the picture.",
        partial(_from_model, "image_to_text", descriptions),
    ),
    (
        "pairs",
        "Image tokenizer",
        "Held-out frames and the same frames after a round trip through their codes.",
        _from_tokenizer,
    ),
)
