"""The agent that a stage with a policy objective has learnt: what it would do in a world, and what it would get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from data_pipelines.shards.index import read_manifest
from data_pipelines.shards.storage import join
from unimodel.batch import CorruptedSequence, pack
from unimodel.layout import Role
from unimodel.objectives.policy import ask_agent
from unimodel.sampling.fill import read_only
from unimodel.tokenizers.action import REWARD_BINS, reward_values
from unimodel.training.loaded_run import LoadedRun
from unimodel.vocabulary import Modality
from unimodel.world.rollout import has_outcomes
from unimodel.world.state import WorldState
from unimodel.world.window import lay_state

STATES_AT_ONCE = 64


class Agent:
    """Asked at the end of a world's past, of which it sees as much as in training, `window_frames`.

    Raises ValueError for a stage that taught no policy.
    """

    def __init__(self, loaded: LoadedRun) -> None:
        stage = loaded.config.stages[loaded.stage]
        frames = stage.skills.get("policy")
        if frames is None:
            raise ValueError(
                f"stage '{loaded.stage}' has no policy: give an entry of its mixture the objective `kind: policy`, or "
                "name one as its `agent`"
            )
        asked = [(entry, stage.agent_of(entry)) for entry in stage.mixture]
        self._has_sink, self._config = next(
            (entry.sink, agent[1]) for entry, agent in asked if agent is not None and entry.frames == frames
        )
        self._has_outcomes = has_outcomes(loaded.run)
        self.window_frames, self._backbone, self._bundle = frames, loaded.backbone, loaded.bundle
        recorded = read_manifest(join(loaded.config.data.folder, "train")).metadata
        self.num_actions: int = recorded["num_actions"]
        """Of the recorded world; other sources of the run may have more."""

    @property
    def discount(self) -> float:
        """Of rewards by every step that they are away, in its values."""
        return self._config.discount

    @property
    def head_weights(self) -> tuple[Tensor, Tensor]:
        """[actions, dim] and [reward bins, dim]: what features are multiplied with."""
        weights, vocabulary = self._backbone.decoder.lm_head.weight.detach(), self._bundle.vocabulary
        actions, rewards = (
            vocabulary.range_of(Modality.ACTION)[: self.num_actions],
            vocabulary.range_of(Modality.REWARD),
        )
        return weights[actions.start : actions.stop], weights[rewards.start : rewards.stop]

    def probabilities(self, states: Sequence[WorldState]) -> np.ndarray:
        """float64 [states, actions], of several agents [states, agents, actions]: how likely the recorded players were
        to take each action next."""
        features, weights = self.features(states)[:, :-1], self.head_weights[0]
        chances = (features @ weights.T).double().softmax(dim=-1).cpu().numpy()
        return chances if states[0].actions.ndim == 2 else chances[:, 0]

    def values(self, states: Sequence[WorldState]) -> np.ndarray:
        """float64 [states]: the discounted rewards that they got from there on, all together, expected."""
        return bin_values(self.features(states)[:, -1] @ self.head_weights[1].T).cpu().numpy()

    @torch.no_grad()
    def features(self, states: Sequence[WorldState]) -> Tensor:
        """[states, agents + 1, dim] last hidden states of the questions what to do next, for each agent, and what there
        is to get. The states are of worlds of equally many agents."""
        parts, questions = [], states[0].num_agents + 1
        for start in range(0, len(states), STATES_AT_ONCE):
            asked = [self._ask(state) for state in states[start : start + STATES_AT_ONCE]]
            length = -(-max(map(len, asked)) // 8) * 8
            batch = pack([[one] for one in asked], length, self._bundle.pad_id)
            hidden = self._backbone.hidden(batch.to(next(self._backbone.parameters()).device))
            stops = torch.tensor([len(one) for one in asked], device=hidden.device)
            places = stops[:, None] - torch.arange(questions, 0, -1, device=hidden.device)
            parts.append(hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2])))
        return torch.cat(parts)

    def _ask(self, state: WorldState) -> CorruptedSequence:
        """The questions of the last moment stand at the end."""
        first = max(0, len(state.frames) - self.window_frames)
        sequence, ids = lay_state(
            self._bundle.builder,
            state,
            first,
            has_sink=self._has_sink,
            has_outcomes=self._has_outcomes,
            asks_agent=True,
        )
        questions = sequence.spans[-state.num_agents - 1 :]
        assert all(span.role is Role.AGENT for span in questions) and len({span.time for span in questions}) == 1
        world = replace(read_only(sequence), input_ids=ids)
        return ask_agent(world, sequence, self._bundle.vocabulary, self._config, 0)


def bin_values(logits: Tensor) -> Tensor:
    """float64 [...] expected values from logits [..., reward bins]."""
    values = torch.from_numpy(reward_values(np.arange(REWARD_BINS))).to(logits.device)
    return logits.double().softmax(dim=-1) @ values
