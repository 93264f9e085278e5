"""What the stages of a run will draw from its data, planned from the index alone: no sample is read."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_pipelines.stream.mixture import shares_at
from data_pipelines.stream.packing import deal_by_cost
from data_pipelines.stream.plan import WINDOW_ROWS, Row, StreamState, attention_cost
from unimodel.config import RunConfig, StageConfig
from unimodel.run_folder import RunFolder
from unimodel.tokenizers.finished import has_tokens, source_names
from unimodel.tokenizers.prepare import load_run_bundle
from unimodel.training.data import StageData, entry_name

PREVIEW_ROWS = 100_000
"""Most rows that are planned of a stage: seconds, and shares are exact long before."""
RANKS = (2, 4, 8)


def preview_mixtures(config: RunConfig, run: RunFolder) -> dict[str, Any]:
    """JSON-able figures by stage: steps and rows looked at, tokens per place of a row, the difference of cost between
    ranks, and of every ingredient its tokens, wished and planned share, samples and how often it sees all of them.

    Raises ValueError when the run's data is not tokenised yet.
    """
    if not has_tokens(config, run):
        raise ValueError(f"{run.path}: its data is not tokenised yet: run `unimodel data tokenize` with its config")
    bundle = load_run_bundle(run)
    tokens = {source: run.tokens_of(source, "train") for source in source_names(config)}
    return {
        name: _preview(StageData(tokens, bundle.builder, name, stage, config.seed), stage)
        for name, stage in config.ordered_stages
    }


def _preview(data: StageData, stage: StageConfig) -> dict[str, Any]:
    batch = stage.batch
    steps = max(1, min(stage.steps, PREVIEW_ROWS // batch.rows))
    plan = data.plan(StreamState())
    wished, tokens = np.zeros(len(stage.mixture)), np.zeros(len(stage.mixture), dtype=np.int64)
    samples = np.zeros(len(stage.mixture), dtype=np.int64)
    imbalance: dict[int, list[float]] = {ranks: [] for ranks in RANKS if batch.rows % ranks == 0}
    for _ in range(steps):
        progress = plan.state.window * WINDOW_ROWS / (stage.steps * batch.rows)
        wished += shares_at(data.mixture, min(1.0, progress))
        rows = plan.take(batch.rows)
        for row in rows:
            for placed in row:
                tokens[placed.draw.ingredient] += placed.length
                samples[placed.draw.ingredient] += 1
        for ranks, found in imbalance.items():
            found.append(_imbalance(rows, ranks))
    return {
        "steps": steps,
        "rows": steps * batch.rows,
        "row_tokens": batch.row_tokens,
        "packing_efficiency": round(int(tokens.sum()) / (steps * batch.rows * batch.row_tokens), 5),
        "cost_imbalance_by_ranks": {ranks: round(float(np.mean(found)), 5) for ranks, found in imbalance.items()},
        "ingredients": [
            {
                "name": entry_name(entry),
                "objective": entry.objective,
                "tokens": int(tokens[number]),
                "wished_share": round(float(wished[number] / wished.sum()), 5),
                "share": round(float(tokens[number] / tokens.sum()), 5),
                "samples": int(samples[number]),
                "tokens_per_sample": round(float(tokens[number] / max(1, samples[number])), 1),
                "epochs": round(float(samples[number] / data.mixture[number].shard_samples.sum()), 3),
            }
            for number, entry in enumerate(stage.mixture)
        ],
    }


def _imbalance(rows: list[Row], ranks: int) -> float:
    """How much longer the slowest rank takes than the mean of them."""
    costs = [attention_cost(row) for row in rows]
    by_rank = [sum(costs[i] for i in mine) for mine in deal_by_cost(costs, ranks)]
    return max(by_rank) / (sum(by_rank) / ranks) - 1.0
