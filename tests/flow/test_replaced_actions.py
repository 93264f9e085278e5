"""Inferred actions in place of known ones: what they are worth is measured beside what was really done.

Run: pytest tests/flow/test_replaced_actions.py
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from tiny_run import TinyRun, tiny_run, train_here

from unimodel.evaluation.evaluate import evaluate
from unimodel.run_folder import read_json
from unimodel.tokenizers.prepare import load_run_bundle, train_tokenizers
from unimodel.tokenizers.tokenise import tokenise_dataset
from unimodel.training.loaded_run import load_run
from unimodel.world.play.played_world import INFERRED_ACTIONS, PlayedWorld
from unimodel.world.play.playground import open_playground
from unimodel.world.play.settings import PlaySettings

LATENT = "tokenizers.latent_action={num_codes: 5, steps: 12, width: 8%s}"


def inferred(folder: Path, more: str) -> TinyRun:
    """The tiny run of recorded episodes, with tokenizers of its own."""
    run = tiny_run(
        folder, LATENT % more, "evaluation.episodes=3", "evaluation.horizons=[1, 2]", stages=("interactive",)
    )
    for part in (run.run.tokenizers, run.run.tokens):
        shutil.rmtree(part)
    train_tokenizers(run.config, run.run)
    tokenise_dataset(run.config, run.run)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = inferred(tmp_path_factory.mktemp("replaced"), ", replace_known: true")
    train_here(run.config)
    return run


def test_eval_puts_codes_beside_the_actions_they_replace(run: TinyRun) -> None:
    evaluate(run.run.path, "test")
    told = read_json(run.run.evaluation)
    rows = {row["metric"]: row for row in told["rows"]}
    accuracy = rows["actions told by their latent codes, steps that change something"]
    assert 0 <= accuracy["model"] <= 1 and accuracy["baseline_name"] == "most frequent action"
    assert accuracy["baseline"] > 0 and accuracy["samples"] > 3
    information = rows["latent codes and actions, adjusted mutual information"]
    assert information["baseline"] == 0 and -1 <= information["model"] <= 1
    assert "counterfactual action accuracy" in rows and "delta-PSNR, 1 step" in rows
    details = {row["metric"]: row for row in told["details"]}
    assert 1 <= details["latent codes in use"]["model"] <= 5


def test_the_real_environment_is_not_asked_to_do_codes(run: TinyRun) -> None:
    ground = open_playground([load_run(run.run.path)], PlaySettings(passes=1))

    async def story() -> str | None:
        world = await PlayedWorld.begin(ground, 0, [0], beside_reality=True)
        await world.advance(4, 1)
        note = world.history.here().real_note
        await world.close()
        return note

    try:
        assert ground.controls.names == tuple(f"latent_{code}" for code in range(5))
        assert ground.starts.environment and ground.environment is None
        assert asyncio.run(story()) == INFERRED_ACTIONS
    finally:
        ground.close()


def test_beside_known_actions_codes_come_last(run: TinyRun, tmp_path: Path) -> None:
    """Play keeps its own actions; a run that differs in this has other tokenizers."""
    both = inferred(tmp_path, "")
    bundle = load_run_bundle(both.run)
    assert bundle.vocabulary.action_size == 7 + 5 and bundle.first_latent_action == 7
    assert bundle.action_names(["left", "right"])[:3] == ("left", "right", "action_2")
    assert load_run_bundle(run.run).vocabulary.action_size == 5
    with pytest.raises(ValueError, match="tokenizers of other settings"):
        train_tokenizers(both.config.model_copy(update={"tokenizers": run.config.tokenizers}), both.run)
