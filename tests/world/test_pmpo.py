"""Policy optimisation in imagination, in a world whose rules are known.

Run: pytest tests/world/test_pmpo.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import command
from torch import Tensor
from toy_run import make_toy_run

from unimodel.tokenizers.action import REWARD_BINS, reward_values
from unimodel.training.loaded_run import load_run
from unimodel.world.agent import Agent
from unimodel.world.controllers.actor_critic import ActorCritic, LearntPolicy, heads_file, load_heads, save_heads
from unimodel.world.controllers.pmpo import PmpoSettings, Update, lambda_returns, learn_in_imagination, two_hot
from unimodel.world.imagination import Choose, Rolled
from unimodel.world.starts import Starts
from unimodel.world.state import WorldState

LENGTH = 4
SETTINGS = PmpoSettings(steps=60, rolls=32, horizon_steps=8, learning_rate=1e-2)


def place(at: int) -> WorldState:
    return WorldState(np.zeros(0, dtype=np.int64), np.full((1, 1, 1), at), np.zeros(0, dtype=np.int64))


class Corridor:
    """Action 1 goes on, all others back; the episode is over with a reward at its end."""

    num_actions = 3
    places = [place(at) for at in range(LENGTH + 1)]

    def roll(self, starts: Sequence[WorldState], choose: Choose, steps: int) -> Rolled:
        actions, rewards = np.zeros((len(starts), steps), dtype=np.int64), np.zeros((len(starts), steps))
        going, states = np.ones((len(starts), steps + 1)), [list(starts)]
        for step in range(steps):
            actions[:, step] = choose(step, states[-1])
            at = np.array([int(state.frames[-1, 0, 0]) for state in states[-1]])
            after = np.where(actions[:, step] == 1, np.minimum(at + 1, LENGTH), np.maximum(at - 1, 0))
            rewards[:, step] = (after == LENGTH) & (at < LENGTH)
            going[:, step + 1] = going[:, step] * (after < LENGTH)
            states.append([self.places[there] for there in after])
        return Rolled(states, actions, rewards, going)


class Onlooker:
    """Sees where it is, and does nothing in particular."""

    head_weights = (torch.zeros(3, LENGTH + 1), torch.zeros(REWARD_BINS, LENGTH + 1))

    def features(self, states: Sequence[WorldState]) -> Tensor:
        at = torch.tensor([int(state.frames[-1, 0, 0]) for state in states])
        return torch.nn.functional.one_hot(at, LENGTH + 1).float()[:, None].expand(-1, 2, -1)


def learn(settings: PmpoSettings, seed: int = 0) -> tuple[ActorCritic, list[Update]]:
    updates: list[Update] = []
    heads = learn_in_imagination(Onlooker(), Corridor(), Corridor.places[:LENGTH], settings, seed, updates.append)  # pyright: ignore[reportArgumentType]
    return heads, updates


def test_an_actor_learns_the_way_and_its_critic_what_it_is_worth() -> None:
    heads, updates = learn(SETTINGS)
    seen = Onlooker().features(Corridor.places)
    ahead = heads.action_logits(seen).softmax(dim=-1)[:LENGTH, 1]
    assert ahead.min() > 0.6
    assert np.mean([update.imagined_return for update in updates[-10:]]) > 2 * updates[0].imagined_return
    worth = heads.value_logits(seen).detach().double().softmax(dim=-1) @ torch.from_numpy(
        reward_values(np.arange(REWARD_BINS))
    )
    assert worth[0] < worth[1] < worth[2] < worth[3] and worth[3] == pytest.approx(0.95, abs=0.15)


def test_it_is_held_to_the_recorded_players() -> None:
    """At nothing it begins as they are; the more it is held, the less it leaves them."""
    kl = [learn(replace(SETTINGS, kl_weight=weight))[1] for weight in (0.1, 3.0)]
    assert kl[0][0].kl == kl[1][0].kl == pytest.approx(0.0, abs=1e-6)
    assert kl[0][-1].kl > 5 * kl[1][-1].kl > 0


def test_learning_follows_from_its_seed() -> None:
    few = replace(SETTINGS, steps=3)
    weights = [torch.cat([p.flatten() for p in learn(few, seed)[0].parameters()]) for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_lambda_returns_are_those_of_their_recursion() -> None:
    rewards, goes_on = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [0.5], [1.0]])
    values = torch.tensor([[9.0], [10.0], [20.0], [40.0]])
    one_step = lambda_returns(rewards, goes_on, values, 0.9, 0.0)
    torch.testing.assert_close(one_step, torch.tensor([[1 + 0.9 * 10], [2 + 0.9 * 0.5 * 20], [3 + 0.9 * 40]]))
    whole = lambda_returns(rewards, goes_on, values, 0.9, 1.0)
    last = 3 + 0.9 * 40
    torch.testing.assert_close(whole[:, 0], torch.tensor([1 + 0.9 * (2 + 0.45 * last), 2 + 0.45 * last, last]))


def test_two_hot_bins_have_the_value_as_their_mean() -> None:
    centres = reward_values(np.arange(REWARD_BINS))
    values = torch.tensor([0.0, 0.3, -1.234, centres[5], 7.0, 99.0], dtype=torch.float64)
    weights = two_hot(values)
    assert ((weights > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(6, dtype=torch.float64))
    means = weights @ torch.from_numpy(centres)
    torch.testing.assert_close(means, values.clamp(max=float(centres[-1])))


def test_what_was_learnt_is_kept_beside_the_weights_it_sits_on(tmp_path: Path) -> None:
    run = make_toy_run(tmp_path).path
    with pytest.raises(FileNotFoundError, match="no policy was learnt in imagination: run `unimodel world learn"):
        load_heads(load_run(run))
    options = "--steps 2 --rolls 3 --horizon 2 --memory-frames 1"
    result = command("world", "learn", str(run), *options.split())
    assert result.returncode == 0, result.stderr
    assert "update     2" in result.stdout and "imagined.safetensors" in result.stdout
    loaded = load_run(run)
    heads = load_heads(loaded)
    for ours, models in zip((heads.prior, heads.worth), Agent(loaded).head_weights, strict=True):
        assert torch.equal(ours, models)
    assert any(parameter.any() for parameter in heads.actor[-1].parameters())
    # It learnt in worlds that remember a frame: it looks at no more.
    past = Starts(loaded, "test", frames=4)[0].state
    assert len(past.frames) == 4
    agent = Agent(loaded)
    ours = LearntPolicy(agent, heads).probabilities([past, past.recent(1)])
    np.testing.assert_allclose(ours[0], ours[1], atol=1e-6)
    assert np.abs(np.subtract(*agent.probabilities([past, past.recent(1)]))).max() > 1e-3
    save_heads(replace(loaded, step=3), heads)
    with pytest.raises(ValueError, match="at step 3 and this is 'interactive' at step 4"):
        load_heads(loaded)
    heads_file(loaded).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is damaged"):
        load_heads(loaded)
