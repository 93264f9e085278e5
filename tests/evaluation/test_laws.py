"""Instruction success and laws of the world: before and after alignment, from the same prompts and noise.

Run: pytest tests/evaluation/test_laws.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from aligned_run import aligned_run
from tiny_run import TinyRun, train_here

from data_pipelines.shards.index import read_manifest, write_manifest
from data_pipelines.sources.minigrid_reading import LAWS, Verdict
from unimodel.config_objectives import DrawingConfig
from unimodel.evaluation import laws
from unimodel.evaluation.held_out import HeldOut, load_held_out
from unimodel.evaluation.laws import divergences, draw, evaluate_laws, facts_right, success, unasked, violations
from unimodel.training.alignment_setup import model_before
from unimodel.training.loaded_run import LoadedRun, load_run

CELLS = np.ones((8, 8), dtype=bool)
VERDICTS = [
    Verdict(4, 4, 4, (), CELLS),
    Verdict(4, 5, 4, (LAWS[0],), CELLS),
    Verdict(2, 3, 1, (LAWS[0], LAWS[2]), CELLS),
    Verdict(2, 0, 0, (), CELLS),
]


def test_figures_are_what_their_names_say() -> None:
    assert success(VERDICTS).value == 2 / 4
    assert facts_right(VERDICTS).value == 9 / 12
    assert violations(VERDICTS).value == 1000 * 3 / 4
    assert unasked(VERDICTS).value == (0 + 1 + 2 + 0) / 4


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = aligned_run(tmp_path_factory.mktemp("aligned"))
    train_here(run.config)
    return run


def opened(run: TinyRun, stage: str) -> tuple[LoadedRun, HeldOut]:
    loaded = load_run(run.run.path, stage)
    bundle = loaded.bundle
    return loaded, load_held_out(loaded.config, loaded.run, "test", bundle.vocabulary, bundle.builder.eos_id)


@torch.no_grad()
def test_an_aligned_stage_stands_beside_the_model_before_it(aligned: TinyRun) -> None:
    rows, details = evaluate_laws(*opened(aligned, "aligned"))
    assert [row.metric for row in rows] == [laws.SUCCESS, laws.FACTS, laws.BROKEN]
    assert {(row.stage, row.baseline_name) for row in rows} == {("aligned", "before alignment")}
    by_name = {row.metric: row for row in details}
    for row in rows:
        assert row.baseline is not None
        assert by_name[f"{row.metric}, rise"].model == pytest.approx(row.model - row.baseline, abs=1e-9)
    kl = by_name["KL from the model before, nats per token"]
    assert kl.baseline == 1.0 and 0.0 < kl.model < 1.0 and kl.better


@torch.no_grad()
def test_a_stage_that_draws_is_told_beside_another_caption(aligned: TinyRun) -> None:
    rows, details = evaluate_laws(*opened(aligned, "unified"))
    by_name = {row.metric: row for row in details}
    assert rows == [] and by_name[laws.SUCCESS].baseline_name == "another caption"
    real = by_name["facts right in real frames, decoded from their codes"]
    assert real.ceiling == 1.0, "the judge reads what was recorded without an error"
    assert by_name[laws.FACTS].ceiling == pytest.approx(real.model)


@torch.no_grad()
def test_the_same_model_draws_the_same_pictures_at_no_divergence(aligned: TinyRun) -> None:
    loaded, held_out = opened(aligned, "aligned")
    prompts = laws._prompts(held_out)
    before = model_before(loaded.config, loaded.run, loaded.bundle, "aligned", loaded.device)
    unified, _ = opened(aligned, "unified")
    ours, theirs = (draw(loaded, backbone, prompts, DrawingConfig()) for backbone in (before, unified.backbone))
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert divergences(unified, before, prompts, ours).tolist() == [0.0] * len(prompts.keys)
    assert (divergences(loaded, before, prompts, ours) > 0).all()


@torch.no_grad()
def test_where_nobody_can_judge_it_is_left_out_and_said(aligned: TinyRun) -> None:
    loaded, held_out = opened(aligned, "unified")
    folder = loaded.config.data.folder / "train"  # pyright: ignore[reportOperatorIssue]
    manifest = read_manifest(folder)
    copied = loaded.run.path / "elsewhere"
    (copied / "train").mkdir(parents=True)
    manifest.metadata["recording"] = manifest.metadata["recording"] | {"environment": "CartPole-v1"}
    write_manifest(copied / "train", manifest)
    data = loaded.config.data.model_copy(update={"folder": copied})
    config = loaded.config.model_copy(update={"data": data})
    elsewhere = replace(loaded, config=config)
    assert evaluate_laws(elsewhere, held_out) == ([], [])
    assert "instruction success is left out: pictures of CartPole-v1 cannot be judged" in loaded.run.log.read_text()
