"""`unimodel data stats RUN` foretells what training draws.

Run: pytest tests/training/test_mixture_preview.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_run import tiny_run
from typer.testing import CliRunner

from data_pipelines.stream.plan import StreamState
from unimodel.cli import app
from unimodel.tokenizers.prepare import load_run_bundle
from unimodel.training.data import StageData


def test_what_is_foretold_is_what_is_drawn(tmp_path: Path) -> None:
    tiny = tiny_run(tmp_path)
    config, run = tiny.config, tiny.run
    run.store_config(config)
    shown = CliRunner().invoke(app, ["data", "stats", str(run.path)])
    assert shown.exit_code == 0, shown.output
    foretold = json.loads(shown.stdout)
    assert list(foretold) == [name for name, _ in config.ordered_stages]
    bundle = load_run_bundle(run)
    for name, stage in config.ordered_stages:
        about = foretold[name]
        stream = StageData({"episodes": run.tokens_of("episodes", "train")}, bundle.builder, name, stage, config.seed)
        steps = [step for step, _ in zip(stream.stream(StreamState(), bundle.pad_id), range(stage.steps), strict=False)]
        tokens = np.sum([step.tokens for step in steps], axis=0)
        assert about["steps"] == stage.steps
        assert [one["tokens"] for one in about["ingredients"]] == tokens.tolist()
        assert about["packing_efficiency"] == pytest.approx(
            np.mean([step.batch.num_tokens / step.batch.input_ids.numel() for step in steps]), abs=1e-5
        )
        for one in about["ingredients"]:
            assert one["share"] == pytest.approx(one["tokens"] / tokens.sum(), abs=1e-5)
            assert one["epochs"] == pytest.approx(one["samples"] / 12, abs=1e-3), "12 episodes were recorded"
        assert sum(one["wished_share"] for one in about["ingredients"]) == pytest.approx(1, abs=1e-4)
        assert all(0 <= value < 1 for value in about["cost_imbalance_by_ranks"].values())
        assert {int(ranks) for ranks in about["cost_imbalance_by_ranks"]} == {
            ranks for ranks in (2, 4, 8) if stage.batch.rows % ranks == 0
        }


def test_a_run_that_is_not_tokenised_is_told(tmp_path: Path) -> None:
    tiny = tiny_run(tmp_path, stages=("unified",))
    tiny.run.store_config(tiny.config)
    (tiny.run.tokens_of("episodes", "train") / "index.json").unlink()
    shown = CliRunner().invoke(app, ["data", "stats", str(tiny.run.path)])
    assert shown.exit_code != 0 and "not tokenised yet" in str(shown.exception or shown.output)
