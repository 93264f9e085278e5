"""A trained run plays for a recording as it says that it would.

Run: pytest tests/world/test_run_policy.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_run import command
from toy_run import make_toy_run

from data_pipelines.shards.reader import ShardReader
from data_pipelines.sources.episode import Episode, decode_episode
from data_pipelines.sources.recording import Recording, record_dataset
from unimodel.run_folder import RunFolder
from unimodel.tokenizers.text import encode_text
from unimodel.training.loaded_run import load_run
from unimodel.world.agent import Agent
from unimodel.world.run_policy import load_policy
from unimodel.world.state import WorldState


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_toy_run(tmp_path_factory.mktemp("player"))


def recording(run: RunFolder, **changes: object) -> Recording:
    config = run.config().data.recording
    settings = Recording(
        environment=config.environment,
        train_episodes=8,
        validation_episodes=1,
        test_episodes=1,
        max_steps=5,
        image_size=config.image_size,
        episodes_per_shard=4,
        policies=[{"kind": "run", "run": str(run.path)}],
        seed=7,
    )
    return replace(settings, **changes)


def episodes_of(folder: Path) -> list[Episode]:
    reader = ShardReader(folder / "train")
    return [decode_episode(*reader.read(number)) for number in range(len(reader))]


def test_it_takes_the_likeliest_actions_or_draws_them_whatever_the_processes(run: RunFolder, tmp_path: Path) -> None:
    drawn, greedy = recording(run), recording(run, policies=[{"kind": "run", "run": str(run.path), "greedy": True}])
    record_dataset(tmp_path / "one", drawn, processes=1, load_policy=load_policy)
    record_dataset(tmp_path / "two", drawn, processes=2, load_policy=load_policy)
    for one, two in zip(episodes_of(tmp_path / "one"), episodes_of(tmp_path / "two"), strict=True):
        assert one.policy == "run" and one.actions.tolist() == two.actions.tolist()
    record_dataset(tmp_path / "greedy", greedy, processes=1, load_policy=load_policy)
    loaded = load_run(run.path)
    agent = Agent(loaded)
    for episode in episodes_of(tmp_path / "greedy"):
        codes, mission = loaded.bundle.image.encode(episode.frames), encode_text(loaded.bundle.text, episode.mission)
        for step, action in enumerate(episode.actions.tolist()):
            before = WorldState(mission, codes[: step + 1], episode.actions[:step])
            assert action == int(np.argmax(agent.probabilities([before])[0]))
    actions = [np.concatenate([e.actions for e in episodes_of(tmp_path / name)]).tolist() for name in ("one", "greedy")]
    assert len(set(actions[0])) > len(set(actions[1]))


def test_runs_that_cannot_play_are_refused(run: RunFolder, tmp_path: Path) -> None:
    missing = recording(run, policies=[{"kind": "run", "run": str(tmp_path / "nowhere")}])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        record_dataset(tmp_path / "new", missing, load_policy=load_policy)
    elsewhere = recording(run, environment="CartPole-v1")
    with pytest.raises(ValueError, match=r"has learnt to act in a world of 7 actions, and CartPole-v1 has 2"):
        record_dataset(tmp_path / "new", elsewhere, processes=1, load_policy=load_policy)


def test_the_command_line_records_by_a_run(run: RunFolder, tmp_path: Path) -> None:
    settings = {
        "data.folder": str(tmp_path / "data"),
        "data.recording.train_episodes": "2",
        "data.recording.policies": f"[{{kind: run, run: {run.path}, name: champion}}]",
    }
    overrides = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    done = command("data", "record", str(run.path / "config.yaml"), *overrides)
    assert done.returncode == 0, done.stderr
    assert {episode.policy for episode in episodes_of(tmp_path / "data")} == {"champion"}
