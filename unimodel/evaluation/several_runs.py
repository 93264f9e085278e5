"""The same figures of several runs of one config with other seeds: their mean, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from unimodel.config_file import settings_of
from unimodel.evaluation.table import UNBOUNDED, Estimate, Row, table_lines
from unimodel.run_folder import RunFolder, read_json
from unimodel.training.finished import MAY_CHANGE_ON_RESUME, differences

MAY_DIFFER = ("name", "seed", "data.folder", *(pattern for pattern in MAY_CHANGE_ON_RESUME if pattern != "evaluation"))
"""Between runs whose figures are put together. Others with other seeds may have recorded data of their own."""


def lines_over_runs(paths: Sequence[Path], part: str) -> list[tuple[str, str, str, str, str]]:
    """Lines as of `table_lines`: means over the runs that have a figure, Student's 95% intervals of the models', and in
    how many runs the model is better than its baseline. `part` is "rows" or "details".

    Raises FileNotFoundError for a run without an evaluation, ValueError for runs that differ in more than the seed,
    were evaluated on other episodes or share a seed.
    """
    evaluations = [read_evaluation(path) for path in paths]
    _require_comparable(paths, evaluations)
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for evaluation in evaluations:
        for row in evaluation[part]:
            found.setdefault((row["metric"], row["stage"]), []).append(row)
    return [_line(rows) for rows in found.values()]


def read_evaluation(path: Path) -> dict[str, Any]:
    """The evaluation of a run. Raises FileNotFoundError where there is none."""
    run = RunFolder(path)
    if not run.evaluation.exists():
        raise FileNotFoundError(f"{path} has no evaluation.json: run `unimodel eval {path}`")
    return {"details": [], **read_json(run.evaluation)}


def _require_comparable(paths: Sequence[Path], evaluations: Sequence[dict[str, Any]]) -> None:
    configs = [RunFolder(path).config() for path in paths]
    first, begun = settings_of(configs[0]), evaluations[0]["state"]
    for path, config, evaluation in zip(paths[1:], configs[1:], evaluations[1:], strict=True):
        now = settings_of(config)
        differing = [d for key in now for d in differences(now[key], first.get(key), key, MAY_DIFFER)]
        differing += differences(evaluation["state"], begun, "evaluated")
        if differing:
            raise ValueError(
                f"{path} and {paths[0]} differ in more than the seed: {', '.join(differing[:5])}. Give runs of one "
                "config, evaluated alike"
            )
    for (path, config), (other, same) in combinations(zip(paths, configs, strict=True), 2):
        if config.seed == same.seed:
            raise ValueError(f"{path} and {other} both have seed {config.seed}: train one of them with --set seed=N")


def _line(rows: list[dict[str, Any]]) -> tuple[str, str, str, str, str]:
    from unimodel.evaluation.intervals import over_runs  # scipy takes a second

    model: Estimate = over_runs([UNBOUNDED if row["model"] is None else row["model"] for row in rows])
    baselines = [row["baseline"] for row in rows if row["baseline"] is not None]
    one = rows[0]
    mean = Row(
        one["metric"],
        one["stage"],
        model.value,
        sum(baselines) / len(baselines) if baselines else None,
        one["baseline_name"],
        sum(row["samples"] for row in rows),
        one["unit"],
        one["higher_is_better"],
        one["required"],
        model.interval,
    )
    metric, stage, figure, baseline, _ = table_lines([mean.to_dict()])[0]
    better = f"{sum(bool(row['better']) for row in rows)} of {len(rows)}" if baselines else f"{len(rows)} runs"
    return metric, stage, figure, baseline, better
