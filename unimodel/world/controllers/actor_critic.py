"""A policy and a value on top of a model that stays as it is: small heads that begin as the model's own agent.

They read the last hidden states of the agent's two questions. What they add to the model's answers starts at nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from unimodel.run_folder import write_atomically
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.agent import Agent
from unimodel.world.state import WorldState

HEAD_WIDTH = 128


class ActorCritic(nn.Module):
    """`prior` [actions, dim] and `worth` [reward bins, dim] are the model's own weights for its agent's answers.

    `memory_frames` is how far back it has learnt to look; 0 is as far as the agent does.
    """

    prior: Tensor
    worth: Tensor

    def __init__(self, prior: Tensor, worth: Tensor, memory_frames: int = 0) -> None:
        super().__init__()
        self.memory_frames = memory_frames
        self.register_buffer("prior", prior.clone())
        self.register_buffer("worth", worth.clone())
        self.actor, self.critic = _added(*prior.shape), _added(*worth.shape)

    def action_logits(self, features: Tensor) -> Tensor:
        """[..., actions] from features [..., 2, dim]."""
        return self.prior_logits(features) + self.actor(features[..., 0, :])

    def prior_logits(self, features: Tensor) -> Tensor:
        """The same of the recorded players."""
        return features[..., 0, :] @ self.prior.T

    def value_logits(self, features: Tensor) -> Tensor:
        """[..., reward bins] from features [..., 2, dim]."""
        return features[..., 1, :] @ self.worth.T + self.critic(features[..., 1, :])


class LearntPolicy:
    """What an actor does in a world."""

    def __init__(self, agent: Agent, heads: ActorCritic) -> None:
        self._agent, self._heads = agent, heads

    @torch.no_grad()
    def probabilities(self, states: Sequence[WorldState]) -> np.ndarray:
        """float64 [states, actions]."""
        if memory := self._heads.memory_frames:
            states = [state.recent(memory) for state in states]
        return self._heads.action_logits(self._agent.features(states)).double().softmax(dim=-1).cpu().numpy()


def heads_file(loaded: LoadedRun) -> Path:
    """Where a run keeps them."""
    return loaded.run.path / "agents" / "imagined.safetensors"


def save_heads(loaded: LoadedRun, heads: ActorCritic) -> Path:
    """Beside the run, with the stage and step of the model that they sit on."""
    path = heads_file(loaded)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in heads.state_dict().items()}
    about = {"stage": loaded.stage, "step": str(loaded.step), "memory_frames": str(heads.memory_frames)}
    write_atomically(path, save(tensors, about))
    return path


def load_heads(loaded: LoadedRun) -> ActorCritic:
    """Raises FileNotFoundError when there are none, ValueError when they are damaged or sit on other weights."""
    path = heads_file(loaded)
    if not path.exists():
        raise FileNotFoundError(f"no policy was learnt in imagination: run `unimodel world learn {loaded.run.path}`")
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): run `unimodel world learn {loaded.run.path}` again") from None
    if (about.get("stage"), about.get("step")) != (loaded.stage, str(loaded.step)):
        raise ValueError(
            f"{path} was learnt in stage '{about.get('stage')}' at step {about.get('step')} and this is "
            f"'{loaded.stage}' at step {loaded.step}: run `unimodel world learn {loaded.run.path}` again"
        )
    heads = ActorCritic(tensors["prior"], tensors["worth"], int(about["memory_frames"]))
    heads.load_state_dict(tensors)
    return heads.to(loaded.device).eval()


def _added(outputs: int, dim: int) -> nn.Sequential:
    last = nn.Linear(HEAD_WIDTH, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(dim, HEAD_WIDTH), nn.SiLU(), last)
