"""`unimodel eval`: every skill is judged once, on the weights of the last stage that taught it.

Run: pytest tests/evaluation/test_evaluate.py
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_run import TinyRun, tiny_run, train_here

from unimodel.evaluation import branches
from unimodel.evaluation.evaluate import evaluate
from unimodel.evaluation.findings import Findings
from unimodel.evaluation.finished import is_evaluated
from unimodel.evaluation.held_out import load_held_out
from unimodel.evaluation.interaction import evaluate_interaction
from unimodel.evaluation.rollouts import roll_held_out, start_of
from unimodel.run_folder import read_json, write_json
from unimodel.training.loaded_run import load_run
from unimodel.world.rollout import roll_out

SETTINGS = (
    "stages.interactive.objectives.actions={kind: inverse_dynamics, changed_weight: 8.0}",
    "stages.interactive.mixture=["
    "{sequence: interaction, objective: frames, frames: 3}, "
    "{sequence: interaction, objective: actions, frames: 4}, "
    "{sequence: image_to_text, objective: caption}]",
    "evaluation.horizons=[1, 2, 64]",
    "evaluation.branch_states=2",
)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = tiny_run(tmp_path_factory.mktemp("evaluated"), *SETTINGS)
    train_here(run.config)
    evaluate(run.run.path, "test")
    return run


def test_a_skill_is_judged_on_the_last_stage_that_taught_it(evaluated: TinyRun) -> None:
    stages = {row["metric"]: row["stage"] for row in read_json(evaluated.run.summary)}
    expected = {
        "image tokenizer PSNR": "tokenizer",
        "image tokenizer SSIM": "tokenizer",
        "masked text token accuracy": "masked",
        "masked image token accuracy": "masked",
        "image bits per token given its caption": "unified",
        "caption token accuracy given the image": "interactive",
        "masked action token accuracy": "interactive",
        "next frame PSNR, 1 step": "interactive",
        "next frame PSNR, 2 steps": "interactive",
        "counterfactual action accuracy": "interactive",
        "action information per frame": "interactive",
        "delta-PSNR, 1 step": "interactive",
        "delta-PSNR, 4 steps": "interactive",
    }
    read = "actions read from own frames (1: as from real ones)"
    if read in stages:  # a judge that has hardly learnt to read real frames judges nobody
        expected[read] = "interactive"
    for steps in ("1 step", "2 steps"):  # five steps of the tokenizer may not show what changes
        if f"changed token accuracy, {steps}" in stages:
            expected[f"changed token accuracy, {steps}"] = "interactive"
    assert stages == expected


def test_better_is_said_of_figures_that_beat_their_baseline_and_their_bar(evaluated: TinyRun) -> None:
    for row in read_json(evaluated.run.summary):
        sign = 1 if row["higher_is_better"] else -1
        bars = [bar for bar in (row["baseline"], row["required"]) if bar is not None]
        if min(abs(row["model"] - bar) for bar in bars) > 1e-3:  # figures are rounded
            assert row["better"] == all(sign * (row["model"] - bar) > 0 for bar in bars), row
        assert row["samples"] > 0


def test_everything_but_the_table_is_in_the_evaluation(evaluated: TinyRun) -> None:
    text = evaluated.run.evaluation.read_text()
    found = json.loads(text, parse_constant=pytest.fail)  # no NaN, no Infinity: any reader of JSON takes it
    assert found["rows"] == read_json(evaluated.run.summary)
    details = {row["metric"] for row in found["details"]}
    assert {
        "next frame SSIM, 1 step",
        "counterfactual actions, way from chance to 1",
        "inverse dynamics accuracy, own frames",
        "bits per frame",
        "drift of PSNR per frame, dB",
    } <= details
    assert {"PSNR", "SSIM", "Feature distance"} <= {curve["title"] for curve in found["curves"]}
    for curve in found["curves"]:
        lengths = {len(line[key]) for line in curve["lines"] for key in ("values", "low", "high")}
        assert lengths == {len(curve["steps"])} == {len(curve["samples"])}
    assert sum(group["states"] for group in found["branches"]) == 2
    assert set(found["reliability"]) == {"real", "own"}
    assert all(row["baseline"] is not None and row["better"] is not None for row in found["rows"])


@torch.no_grad()
def test_rollouts_lie_beside_the_steps_they_are_of(evaluated: TinyRun) -> None:
    loaded = load_run(evaluated.run.path)
    bundle = loaded.bundle
    held_out = load_held_out(loaded.config, loaded.run, "test", bundle.vocabulary, bundle.builder.eos_id)
    rollouts = {rollout.key: rollout for rollout in roll_held_out(loaded, held_out)}
    assert set(rollouts) == {e.key for e in held_out.tokens if e.num_frames > 2}
    for tokens, episode in zip(held_out.tokens, held_out.episodes, strict=True):
        if (rollout := rollouts.get(tokens.key)) is None:
            continue
        np.testing.assert_array_equal(rollout.given.codes, tokens.frames[1])
        np.testing.assert_array_equal(rollout.given.pictures, episode.frames[1])
        np.testing.assert_array_equal(rollout.real.codes, tokens.frames[2:])
        np.testing.assert_array_equal(rollout.real.pictures, episode.frames[2:])
        np.testing.assert_array_equal(rollout.ceiling, bundle.image.decode(tokens.frames[2:]))
        np.testing.assert_array_equal(rollout.happened.over, episode.done[1:])
        np.testing.assert_array_equal(rollout.happened.rewards, episode.rewards[1:])
        assert rollout.expected.over.shape == rollout.expected.rewards.shape == (rollout.steps,)
        np.testing.assert_array_equal(rollout.made.pictures, bundle.image.decode(rollout.made.codes))
        (alone,) = roll_out(loaded, [start_of(tokens)], tokens.actions[None, 1:])
        np.testing.assert_array_equal(rollout.made.codes, alone.frames[2:])


def test_what_cannot_be_branched_is_left_out_and_said(evaluated: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("this world cannot be brought to a state again")

    monkeypatch.setattr(branches, "branching_state", refuse)
    loaded = load_run(evaluated.run.path)
    bundle, findings = loaded.bundle, Findings()
    held_out = load_held_out(loaded.config, loaded.run, "test", bundle.vocabulary, bundle.builder.eos_id)
    with torch.no_grad():
        evaluate_interaction(loaded, held_out, findings)
    assert "counterfactual actions are left out: this world cannot" in loaded.run.log.read_text()
    assert findings.branches == [] and "action information per frame" in {row.metric for row in findings.rows}


def test_figures_are_of_the_split_and_the_weights_they_were_measured_with(evaluated: TinyRun) -> None:
    config, run = evaluated.config, evaluated.run
    assert is_evaluated(config, run, "test") and not is_evaluated(config, run, "validation")
    whole = read_json(run.evaluation)
    older = {**whole["state"], "stages": {**whole["state"]["stages"], "interactive": 20}}
    write_json(run.evaluation, {**whole, "state": older})
    assert not is_evaluated(config, run, "test"), "figures of an earlier step"
    write_json(run.evaluation, whole)
    assert is_evaluated(config, run, "test")


def test_actions_are_asked_over_the_window_that_taught_them(evaluated: TinyRun) -> None:
    skills = evaluated.config.stages["interactive"].skills
    assert skills == {"interaction": 3, "actions": 4, "image_to_text": 2}
