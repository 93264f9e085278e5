"""Policy optimisation in imagination: an actor learns from what the model makes up, never from the real environment.

PMPO (arXiv 2410.04166) as in Dreamer 4 (arXiv 2509.24527, section on imagination training): only the sign of an
advantage counts, so that returns need no scale, and a KL term holds the actor to the recorded players, whom the model
knows. The critic learns lambda-returns (DreamerV3, arXiv 2301.04104) as a distribution over reward bins. The model
itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_pipelines.stream.randomness import keyed_generator, keyed_number
from unimodel.tokenizers.action import REWARD_BINS, reward_values
from unimodel.world.agent import Agent, bin_values
from unimodel.world.controllers.actor_critic import ActorCritic
from unimodel.world.imagination import Imagination, Rolled
from unimodel.world.state import WorldState

KNOWN_STATES = 20_000
"""Whose features are kept for the next steps."""


@dataclass(frozen=True, slots=True)
class PmpoSettings:
    """
    steps          updates of the heads, each after new rolls
    rolls          worlds rolled per update
    horizon_steps  how far
    discount       of rewards, per step
    trace          lambda of the returns: 0 trusts the critic after one step, 1 only at the end of a roll
    bad_weight     alpha: weight of actions that turned out worse than expected; 1 - alpha of those that did not
    kl_weight      beta: how strongly the actor is held to the recorded players
    memory_frames  that the imagined worlds remember, and so the actor; 0 is all
    """

    steps: int = 1000
    rolls: int = 64
    horizon_steps: int = 16
    discount: float = 0.95
    trace: float = 0.95
    bad_weight: float = 0.5
    kl_weight: float = 0.1
    learning_rate: float = 3e-3
    memory_frames: int = 0


@dataclass(frozen=True, slots=True)
class Update:
    """How an update went: discounted return per roll, and KL in nats from the actor to the recorded players."""

    step: int
    imagined_return: float
    kl: float


def learn_in_imagination(
    agent: Agent,
    imagination: Imagination,
    starts: Sequence[WorldState],
    settings: PmpoSettings,
    seed: int,
    report: Callable[[Update], None],
) -> ActorCritic:
    """Heads that have learnt from rolls that begin at some of `starts`. A pure function of its arguments."""
    with torch.random.fork_rng():
        torch.manual_seed(keyed_number("pmpo heads", seed) >> 1)
        heads = ActorCritic(*agent.head_weights, settings.memory_frames).to(agent.head_weights[0].device)
    optimizer = torch.optim.Adam(heads.parameters(), settings.learning_rate)
    features = _Features(agent)
    rng = keyed_generator("pmpo", seed)

    def choose(step: int, states: Sequence[WorldState]) -> np.ndarray:
        del step
        with torch.no_grad():
            chances = heads.action_logits(features(states)).double().softmax(dim=-1).cpu().numpy()
        return (rng.random((len(states), 1)) * chances.sum(1, keepdims=True) >= chances.cumsum(1)).sum(1)

    for step in range(1, settings.steps + 1):
        chosen = [starts[number] for number in rng.integers(len(starts), size=settings.rolls)]
        rolled = imagination.roll(chosen, choose, settings.horizon_steps)
        seen = torch.stack([features(states) for states in rolled.states])
        loss, kl = pmpo_loss(heads, seen, rolled, settings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        discounts = settings.discount ** np.arange(settings.horizon_steps)
        got = (rolled.rewards * rolled.going[:, :-1] * discounts).sum(1).mean()
        report(Update(step, float(got), kl))
    return heads.eval()


def pmpo_loss(heads: ActorCritic, features: Tensor, rolled: Rolled, settings: PmpoSettings) -> tuple[Tensor, float]:
    """Actor's and critic's loss, and the KL to the recorded players. `features` [steps + 1, rolls, 2, dim].

    Steps that are taken when the episode may be over count by the probability that it is not.
    """
    rewards, going = (torch.from_numpy(part.T).to(features.device) for part in (rolled.rewards, rolled.going))
    actions = torch.from_numpy(rolled.actions.T).to(features.device)
    value_logits = heads.value_logits(features)
    values = bin_values(value_logits.detach())
    goes_on = going[1:] / going[:-1].clamp(min=1e-9)
    returns = lambda_returns(rewards, goes_on, values, settings.discount, settings.trace)
    weight = going[:-1]

    log_chances = heads.action_logits(features[:-1]).double().log_softmax(dim=-1)
    taken = log_chances.gather(-1, actions[..., None]).squeeze(-1)
    good = returns >= values[:-1]
    praise = (taken * weight)[good].sum() / weight[good].sum().clamp(min=1e-9)
    blame = (taken * weight)[~good].sum() / weight[~good].sum().clamp(min=1e-9)
    prior = heads.prior_logits(features[:-1]).double().log_softmax(dim=-1)
    kl = ((log_chances.exp() * (log_chances - prior)).sum(-1) * weight).sum() / weight.sum()
    actor = settings.bad_weight * blame - (1 - settings.bad_weight) * praise + settings.kl_weight * kl

    wrong = -(two_hot(returns) * value_logits[:-1].double().log_softmax(dim=-1)).sum(-1)
    critic = (wrong * weight).sum() / weight.sum()
    return actor + critic, float(kl.detach())


def lambda_returns(rewards: Tensor, goes_on: Tensor, values: Tensor, discount: float, trace: float) -> Tensor:
    """[steps, rolls] from rewards and the probabilities to go on after them, both [steps, rolls], and values
    [steps + 1, rolls]."""
    after, returns = values[-1], []
    for step in reversed(range(len(rewards))):
        ahead = (1 - trace) * values[step + 1] + trace * after
        after = rewards[step] + discount * goes_on[step] * ahead
        returns.append(after)
    return torch.stack(returns[::-1])


def two_hot(values: Tensor) -> Tensor:
    """float64 [..., reward bins]: the two bins around each value, so weighted that their mean is the value."""
    centres = torch.from_numpy(reward_values(np.arange(REWARD_BINS))).to(values.device)
    values = values.clamp(centres[0], centres[-1])
    upper = torch.searchsorted(centres, values.contiguous()).clamp(1, REWARD_BINS - 1)
    low, high = centres[upper - 1], centres[upper]
    share = (values - low) / (high - low)
    weights = torch.zeros(*values.shape, REWARD_BINS, dtype=torch.float64, device=values.device)
    weights.scatter_(-1, (upper - 1)[..., None], (1 - share)[..., None])
    return weights.scatter_(-1, upper[..., None], share[..., None])


class _Features:
    """Of states, each asked for once: a table's states come again and again as the same objects."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._known: dict[int, tuple[WorldState, Tensor]] = {}

    def __call__(self, states: Sequence[WorldState]) -> Tensor:
        """[states, 2, dim]."""
        if len(self._known) > KNOWN_STATES:
            self._known.clear()
        new = list({id(state): state for state in states if id(state) not in self._known}.values())
        if new:
            self._known |= {id(s): (s, one) for s, one in zip(new, self._agent.features(new), strict=True)}
        return torch.stack([self._known[id(state)][1] for state in states])
