"""`unimodel eval`: every skill is judged once, on the weights of the last stage that taught it.

Run: pytest tests/evaluation/test_evaluate.py
"""

from __future__ import annotations

import pytest
from tiny_run import TinyRun, tiny_run, train_here

from unimodel.evaluation.evaluate import evaluate
from unimodel.evaluation.finished import is_evaluated
from unimodel.run_folder import read_json, write_json

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
    }
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
