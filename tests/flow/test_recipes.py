"""Every recipe says what it is, and those of known systems train as they stand, on little data and for a few steps.

Run: pytest tests/flow/test_recipes.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from unimodel.cli import app
from unimodel.config_file import load_config
from unimodel.recipes import find_recipe, list_recipes
from unimodel.run_folder import RunFolder
from unimodel.training.loaded_run import load_run
from unimodel.world.rollout import worlds_of
from unimodel.world.starts import Starts

STEPS = 2
PREPARED = ("data record", "tokenizer train", "data tokenize")
MEMORIES = {
    "transformer_xl": "window",
    "rmt": "recurrent",
    "memorizing_transformer": "episodic",
    "gated_delta": "fastweight",
    "titans": "fastweight",
    "framepack": "compressed",
}
SYSTEMS = (*MEMORIES, "worldmem", "genie", "oasis", "dreamer")


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_recipes_are_listed_with_a_title_each() -> None:
    listed = invoke("recipes")
    assert listed.exit_code == 0
    lines = dict(line.split(None, 1) for line in listed.output.splitlines())
    assert list(lines) == [recipe.name for recipe in list_recipes()]
    assert set(SYSTEMS) <= set(lines) and all(len(title) > 20 for title in lines.values())
    assert lines["rmt"].startswith("Recurrent Memory Transformer (arXiv 2207.06881): ")


def test_a_recipe_tells_how_it_is_run_and_what_is_different() -> None:
    for recipe in list_recipes():
        if recipe.name in SYSTEMS:
            assert "The same:" in recipe.about and "Different:" in recipe.about
            assert f"configs/recipes/{recipe.name}.yaml runs/{recipe.name}" in recipe.about
    told = invoke("recipes", "titans")
    assert told.exit_code == 0 and str(find_recipe("titans").path) in told.output and "equations 13" in told.output


def test_a_recipe_that_there_is_not_is_refused_by_name(tmp_path: Path) -> None:
    assert "there is no recipe 'titan': 70b, " in str(invoke("recipes", "titan").exception)
    with pytest.raises(FileNotFoundError, match="they come with the source tree"):
        list_recipes(tmp_path)


@pytest.mark.parametrize(("name", "kind"), MEMORIES.items(), ids=list(MEMORIES))
def test_recipes_of_memories_differ_in_their_memory_alone(name: str, kind: str) -> None:
    base, recipe = (load_config(find_recipe(each).path) for each in ("memory_recall", name))
    ours = recipe.stages["memory"].memory
    assert ours is not None and [each.kind for each in ours.mechanisms] == [kind]
    same = recipe.stages["memory"].model_copy(update={"memory": base.stages["memory"].memory})
    assert same == base.stages["memory"] and recipe.backbone == base.backbone


def test_worldmem_recalls_by_pose_beside_a_window_in_rooms_that_tell_poses() -> None:
    config = load_config(find_recipe("worldmem").path)
    memory = config.stages["memory"].memory
    assert memory is not None and memory.recalls_by_pose
    assert [each.kind for each in memory.mechanisms] == ["window", "episodic"]
    assert "rooms:Rooms-3x3" in config.data.recording.environment


def small(name: str, folder: Path) -> list[str]:
    """Overrides under which a recipe runs in seconds, in `folder`."""
    path, recording = find_recipe(name).path, {"train_episodes": 6, "validation_episodes": 2, "test_episodes": 2}
    config = load_config(path)
    settings: dict[str, object] = {
        "runs_folder": folder,
        "data.folder": folder / "data",
        "tokenizers.image.steps": 3,
        **{f"data.recording.{key}": value for key, value in recording.items()},
        **{f"stages.{stage}.steps": STEPS for stage in config.stages},
    }
    if config.tokenizers.latent_action is not None:
        settings["tokenizers.latent_action.steps"] = 3
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def made(name: str, folder: Path, *parts: str) -> None:
    """Does `parts` of the life of a recipe, by the command line."""
    for part in parts:
        done = invoke(*part.split(), find_recipe(name).path, *small(name, folder))
        assert done.exit_code == 0, (part, done.output, done.exception)


@pytest.fixture(scope="module")
def recall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes and tokens of delayed recall, which all recipes of memories read."""
    folder = tmp_path_factory.mktemp("recall")
    made("memory_recall", folder, *PREPARED)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_recipes_of_known_systems_train_and_their_worlds_are_stepped(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name == "oasis":
        pytest.importorskip("crafter")
    if name in MEMORIES:
        prepared = request.getfixturevalue("recall")
        shutil.copytree(prepared / "data", tmp_path / "data")
        for part in ("tokenizers", "tokens"):
            shutil.copytree(prepared / "memory_recall" / part, tmp_path / name / part)
    else:
        made(name, tmp_path, *PREPARED)
    made(name, tmp_path, "train")
    run = RunFolder(tmp_path / name)
    losses = [json.loads(line)["loss"] for line in run.metrics.read_text().splitlines()]
    assert len(losses) == STEPS * len(run.config().stages) and np.isfinite(losses).all()
    loaded = load_run(run.path)
    worlds = worlds_of(loaded)
    slot = worlds.open(Starts(loaded, "test")[0].state)
    for _ in range(6):
        worlds.step([slot], [1])
    assert len(worlds.state(slot).frames) == 7
    if name == "dreamer":
        settings = ("--steps=2", "--rolls=4", "--horizon=2", "--memory-frames=1")
        learnt = invoke("world", "learn", run.path, *settings)
        assert learnt.exit_code == 0, (learnt.output, learnt.exception)
