"""A run in a world of two agents, from the recording to its figures, its report and those who play in it.

Run: pytest tests/flow/test_society_run.py
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_run import make_toy_run
from typer.testing import CliRunner

from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.stats import dataset_stats
from data_pipelines.sources.episode import UNKNOWN_ACTION, decode_episode
from data_pipelines.sources.recording import Recording, record_dataset
from unimodel.cli import app
from unimodel.config_file import settings_of
from unimodel.evaluation.evaluate import evaluate
from unimodel.evaluation.held_out import load_held_out
from unimodel.evaluation.report import write_report
from unimodel.evaluation.scorecard.restart import restart_worlds
from unimodel.generate import frames_from_actions
from unimodel.run_folder import RunFolder
from unimodel.training.loaded_run import LoadedRun, load_run
from unimodel.world.agent import Agent
from unimodel.world.controllers.planner import PlanSettings
from unimodel.world.controllers.roster import ImaginationSettings, build_controllers
from unimodel.world.env import WorldModelEnv, WorldModelVectorEnv
from unimodel.world.play.playground import open_playground
from unimodel.world.play.settings import PlaySettings
from unimodel.world.real import RealEpisode
from unimodel.world.run_policy import load_policy
from unimodel.world.starts import Starts

ORCHARD = "society:data_pipelines.sources.orchard?agents=2"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    roles = {"kind": "roles", "roles": ["trader", "gatherer"], "leave_fraction": 0.1}
    return make_toy_run(tmp_path_factory.mktemp("society"), environment=ORCHARD, policies=[roles])


@pytest.fixture(scope="module")
def loaded(run: RunFolder) -> LoadedRun:
    return load_run(run.path)


def test_its_figures_are_told_by_agent(run: RunFolder) -> None:
    evaluate(run.path, "test")
    found = json.loads(run.evaluation.read_text())
    told = {row["metric"] for row in (*found["rows"], *found["details"])}
    for agent in (0, 1):
        assert f"action information per frame, agent {agent}" in told
    assert any(name.startswith("counterfactual action accuracy, agent ") for name in told)
    assert {"social information per frame", "effect of acting together per frame", "delta-PSNR, 1 step"} <= told
    assert "Generated" in write_report(run.path).read_text()
    actions = dataset_stats(run.config().data.folder)["train"]["actions"]
    assert sum(actions.values()) == 6 * 10 * 2 and actions[str(UNKNOWN_ACTION)] > 0


def test_the_dream_and_the_real_world_take_the_same_actions(loaded: LoadedRun) -> None:
    env = WorldModelEnv(loaded, split="test", end_probability=1.0)
    assert env.action_space.shape == (2,)
    env.reset(seed=0, options={"episode": 1})
    start = Starts(loaded, "test")[1]
    real = RealEpisode(loaded, start)
    recorded = decode_episode(*ShardReader(Path(str(loaded.config.data.folder)) / "test").read(1))
    for number in range(4):
        action = np.maximum(recorded.actions[number], 0)
        frame, *_ = env.step(action)
        assert frame.shape == (64, 64, 3)
        _, reward, *_, info = real.step(recorded.actions[number].tolist())
        assert reward == sum(info["rewards"]) and np.array_equal(real.frame, recorded.frames[number + 1])
    assert env.state.actions.shape == real.state.actions.shape == (4, 2)
    for wrong in (1, np.array([0, 9])):
        with pytest.raises(ValueError, match="does not exist; the actions are one of each"):
            env.step(wrong)
    envs = WorldModelVectorEnv(loaded, num_envs=2, split="test", end_probability=1.0)
    envs.reset(seed=0)
    frames, *_ = envs.step(envs.action_space.sample())
    assert frames.shape == (2, 64, 64, 3)


def test_a_policy_of_its_own_plays_every_agent(run: RunFolder, loaded: LoadedRun, tmp_path: Path) -> None:
    agent, start = Agent(loaded), Starts(loaded, "test")[0]
    chances, values = agent.probabilities([start.state, start.state]), agent.values([start.state])
    assert chances.shape == (2, 2, 6) and values.shape == (1,)
    np.testing.assert_allclose(chances.sum(axis=2), 1.0)
    recording = Recording(seed=7, **settings_of(run.config().data.recording))
    mine = replace(recording, train_episodes=2, max_steps=5, policies=[{"kind": "run", "run": str(run.path)}])
    record_dataset(tmp_path / "played", mine, processes=1, load_policy=load_policy)
    episode = decode_episode(*ShardReader(tmp_path / "played/train").read(0))
    assert episode.actions.shape == (5, 2) and episode.policy == "run"


def test_frames_are_generated_from_actions_of_both(loaded: LoadedRun) -> None:
    frames = frames_from_actions(loaded, ["up+trade", "0+absent"], 0, 0)
    assert frames.shape == (3, 64, 64, 3)
    for wrong, said in (("up", "not an action of each of 2 agents"), ("up+fly", "unknown action 'fly'")):
        with pytest.raises(ValueError, match=said):
            frames_from_actions(loaded, [wrong], 0, 0)


def test_a_world_on_disk_takes_an_action_of_each(run: RunFolder) -> None:
    def world(subcommand: str, *rest: str) -> str:
        done = CliRunner().invoke(app, ["world", subcommand, str(run.path), "shared", *rest], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    world("create")
    printed = world("step", "--actions", "up+trade,stay+-")
    printed += world("step", "--actions", "0+5", "--agent", "ada")
    assert [line.split()[2] for line in printed.splitlines() if line.startswith("tick")] == [
        "up+trade",
        "stay+-",
        "stay+trade",
    ]
    shown = world("show")
    assert "agent 0 (white), agent 1 (orange)" in shown and "script 3, ada 2" in shown
    log = [json.loads(line) for line in world("log").splitlines()]
    acts = [(line["tick"], line.get("agent"), line["action"]) for line in log if line["kind"] == "act"]
    script = [(1, "script", 1), (1, "script", 5), (2, "script", 0), (2, None, UNKNOWN_ACTION)]
    assert acts == [*script, (3, "ada", 0), (3, "ada", 5)]
    for wrong, said in (("up", "not an action of each of 2 agents"), ("up+fly", "'fly' is no action of this world")):
        with pytest.raises(ValueError, match=said):
            world("step", "--actions", wrong)


def test_a_world_of_both_goes_on_after_a_restart(run: RunFolder, loaded: LoadedRun) -> None:
    held_out = load_held_out(loaded.config, run, "test", loaded.bundle.vocabulary, loaded.bundle.builder.eos_id)
    worlds = restart_worlds(loaded, held_out)
    assert worlds and all(np.array_equal(one.restarted, one.never_closed) for one in worlds)


def test_who_acts_alone_is_refused(loaded: LoadedRun) -> None:
    with pytest.raises(ValueError, match="2 agents act in every step, and this is for one"):
        build_controllers(loaded, ["random"], 6, PlanSettings(), ImaginationSettings())
    with pytest.raises(ValueError, match="2 agents act in every step, and this is for one"):
        open_playground([loaded], PlaySettings())
