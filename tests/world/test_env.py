"""A model is a gymnasium environment: the library's own checker, its vector form, and a stock agent agree.

Run: pytest tests/world/test_env.py
"""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from toy_run import make_toy_run

import unimodel.world  # noqa: F401 - registers the environment
from unimodel.training.loaded_run import LoadedRun, load_run
from unimodel.world.env import WorldModelEnv, WorldModelVectorEnv

NAMES = ["left", "right", "forward", "pickup", "drop", "toggle", "done"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    """Random weights: what the world looks like does not matter here."""
    return load_run(make_toy_run(tmp_path_factory.mktemp("world")).path)


def test_gymnasiums_checker_has_nothing_to_say(loaded: LoadedRun, recwarn: pytest.WarningsRecorder) -> None:
    env = gymnasium.make("unimodel/World-v0", run=str(loaded.run.path), render_mode="rgb_array", max_steps=5)
    check_env(env.unwrapped)
    assert [str(warning.message) for warning in recwarn if issubclass(warning.category, UserWarning)] == []


def test_an_episode_begins_where_a_recorded_one_does(loaded: LoadedRun) -> None:
    env = WorldModelEnv(loaded, split="test", end_probability=1.0, max_steps=3)
    assert env.get_action_meanings() == NAMES
    seen = set()
    for seed in range(12):
        frame, info = env.reset(seed=seed)
        again, same = env.reset(seed=seed)
        np.testing.assert_array_equal(frame, again)
        assert info == same and info["mission"] and info["environment"] == "BabyAI-GoToLocalS8N3-v0"
        seen.add(info["seed"])
    assert len(seen) > 1
    frame, info = env.reset(options={"episode": 2})
    assert info["seed"] == 7_500_002
    with pytest.raises(ValueError, match="episode 99 does not exist: there are 0 to 3"):
        env.reset(options={"episode": 99})


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_episode_follows_from_its_seed(loaded: LoadedRun, temperature: float) -> None:
    def play() -> list[np.ndarray]:
        env = WorldModelEnv(loaded, end_probability=1.0, max_steps=6, temperature=temperature)
        env.reset(seed=3)
        return [np.append(frame, reward) for frame, reward, *_ in (env.step(action) for action in (2, 0, 2, 1))]

    np.testing.assert_array_equal(play(), play())


def test_a_time_limit_truncates_and_the_end_terminates(loaded: LoadedRun) -> None:
    env = WorldModelEnv(loaded, end_probability=1.0, max_steps=3)
    env.reset(seed=0)
    assert [env.step(2)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(2)
    sure = WorldModelEnv(loaded, end_probability=0.0, max_steps=3)
    sure.reset(seed=0)
    assert sure.step(2)[2:4] == (True, False)


def test_unlikely_rewards_are_none(loaded: LoadedRun) -> None:
    """Random weights give every bin its share: nothing is left of it where rewards must be likely, all where not."""
    rewards = []
    for least in (1.0, 0.0):
        env = WorldModelEnv(loaded, least_reward_probability=least)
        env.reset(seed=0)
        rewards.append(env.step(2)[1])
    assert rewards[0] == 0.0 and rewards[1] != 0.0


def test_an_action_that_does_not_exist_changes_nothing(loaded: LoadedRun) -> None:
    env, undisturbed = (WorldModelEnv(loaded, end_probability=1.0) for _ in range(2))
    for each in (env, undisturbed):
        each.reset(seed=1)
    for wrong in (7, -1, 1.5, "left"):
        with pytest.raises(ValueError, match=r"does not exist; the actions are 0 to 6: \['left'"):
            env.step(wrong)  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(env.step(np.int64(2))[0], undisturbed.step(2)[0])
    envs = WorldModelVectorEnv(loaded, num_envs=2, end_probability=1.0)
    envs.reset(seed=1)
    with pytest.raises(ValueError, match="action 9 does not exist"):
        envs.step(np.array([2, 9]))
    undisturbed.reset(seed=1)
    np.testing.assert_array_equal(envs.step(np.array([2, 2]))[0][0], undisturbed.step(2)[0])


def test_a_vector_of_them_is_each_by_itself(loaded: LoadedRun) -> None:
    """Also through episodes that end, one before the other, and begin anew."""
    envs = gymnasium.make_vec("unimodel/World-v0", num_envs=3, run=loaded, max_steps=4)
    assert isinstance(envs, WorldModelVectorEnv) and envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    alone = gymnasium.vector.SyncVectorEnv([lambda: WorldModelEnv(loaded, max_steps=4)] * 3)
    assert envs.observation_space == alone.observation_space and envs.action_space == alone.action_space
    ours, theirs = envs.reset(seed=5), alone.reset(seed=5)
    envs.action_space.seed(0)
    ended = 0
    for _ in range(12):
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[-1]["mission"].tolist() == theirs[-1]["mission"].tolist()
        actions = envs.action_space.sample()
        ours, theirs = envs.step(actions), alone.step(actions)
        np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)
        np.testing.assert_array_equal(ours[2:4], theirs[2:4])
        ended += int(np.sum(ours[2:4]))
    assert ended >= 6


def test_a_stage_that_cannot_step_a_world_is_refused(loaded: LoadedRun, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'masked' was not trained on interaction"):
        WorldModelEnv(loaded.run.path, stage="masked")
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        WorldModelEnv(tmp_path)


def test_a_stock_agent_trains_in_it(loaded: LoadedRun) -> None:
    from stable_baselines3 import PPO

    env = gymnasium.make("unimodel/World-v0", run=loaded, max_steps=6)
    agent = PPO("CnnPolicy", env, n_steps=16, batch_size=8, n_epochs=1, seed=0, device="cpu")
    before = [parameter.clone() for parameter in agent.policy.parameters()]
    agent.learn(32)
    assert agent.num_timesteps == 32
    assert any((old != new).any() for old, new in zip(before, agent.policy.parameters(), strict=True))
