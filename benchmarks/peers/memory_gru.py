"""What a plain recurrent network remembers of the worlds of a run.

A GRU reads every frame (its codes embedded, side by side) with the action that led to it, and foretells the codes and
the reward of the next; what an episode ends with counts as much as all its rewards together. It has the whole episode
in one pass, trained by backpropagation through all of it, with as many episodes a step as the run's last stage.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from data_pipelines.stream.randomness import keyed_generator
from unimodel.evaluation.memory import Recalled
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.training.loaded_run import LoadedRun

LEARNING_RATE = 2e-3


class FrameGru(nn.Module):
    """Frames [episodes, time, codes] and actions that follow them [episodes, time] -> what comes next."""

    def __init__(self, codebook: int, codes: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.codes, self.codebook = codes, codebook
        self.embed_code, self.embed_action = nn.Embedding(codebook, 32), nn.Embedding(actions, hidden)
        self.inner = nn.Linear(32 * codes, hidden)
        self.memory = nn.GRU(hidden, hidden, batch_first=True)
        self.outer = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, codes * codebook + 1))

    def forward(self, frames: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [episodes, time, codes, codebook] of the next frame, [episodes, time] of a reward with it."""
        state, _ = self.memory(self.inner(self.embed_code(frames).flatten(2)))
        answer = self.outer(torch.cat([state, self.embed_action(actions)], dim=-1))
        return answer[..., :-1].unflatten(-1, (self.codes, self.codebook)), answer[..., -1]


def tensors(episodes: list[TokenisedEpisode]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frames, actions, rewarded, and which steps there are, padded to the longest."""
    steps, codes = max(e.num_frames - 1 for e in episodes), episodes[0].frames[0].size
    frames = np.zeros((len(episodes), steps + 1, codes), dtype=np.int64)
    actions, rewarded, there = (np.zeros((len(episodes), steps), dtype=np.int64) for _ in range(3))
    for row, episode in enumerate(episodes):
        count = episode.num_frames - 1
        frames[row, : count + 1] = episode.frames.reshape(count + 1, -1)
        actions[row, :count], rewarded[row, :count] = episode.actions, np.nan_to_num(episode.rewards) != 0
        there[row, :count] = 1
    return tuple(map(torch.from_numpy, (frames, actions, rewarded, there)))  # pyright: ignore[reportReturnType]


def train_gru(loaded: LoadedRun, episodes: list[TokenisedEpisode], hidden: int, steps: int | None = None) -> FrameGru:
    """For as many steps as the stage of the run, or `steps`."""
    stage, vocabulary = loaded.config.stages[loaded.stage], loaded.bundle.vocabulary
    memory, steps = stage.memory, steps or stage.steps
    assert memory is not None, "the stage has a memory"
    # Rows hold segments, and an episode fills some of them.
    segments = np.mean([math.ceil((episode.num_frames - 1) / memory.segment_frames) for episode in episodes])
    at_once = max(1, round(stage.batch.rows * (stage.batch.row_tokens // memory.segment_tokens) / segments))
    with torch.random.fork_rng():
        torch.manual_seed(loaded.config.seed)
        model = FrameGru(vocabulary.image_size, episodes[0].frames[0].size, vocabulary.action_size, hidden)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = keyed_generator("gru", loaded.config.seed)
    for _ in range(steps):
        some = [episodes[i] for i in rng.integers(len(episodes), size=at_once)]
        frames, actions, rewarded, there = tensors(some)
        codes, reward = model(frames[:, :-1], actions)
        shown = there.bool()
        loss = nn.functional.cross_entropy(codes[shown].flatten(0, 1), frames[:, 1:][shown].flatten())
        ends = torch.arange(len(there)), there.sum(dim=1) - 1
        for part in (shown, ends):
            loss = loss + nn.functional.binary_cross_entropy_with_logits(reward[part], rewarded[part].float())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
    return model.eval()


@torch.no_grad()
def recall_gru(model: FrameGru, episodes: list[TokenisedEpisode], since: list[np.ndarray]) -> list[Recalled]:
    """What it tells of each episode."""
    recalled = []
    for episode, gaps in zip(episodes, since, strict=True):
        frames, actions, rewarded, _ = tensors([episode])
        codes, reward = model(frames[:, :-1], actions)
        right = (codes.argmax(-1) == frames[:, 1:]).sum(-1)[0].numpy()
        is_rewarded, is_told = bool(rewarded[0, -1]), bool(reward[0, -1] > 0)
        recalled.append(Recalled(gaps, right, episode.frames[0].size, is_rewarded, is_told))
    return recalled
