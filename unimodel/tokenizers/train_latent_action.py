"""Trains the model of latent actions: how much of the change between neighbouring frames is left unexplained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from data_pipelines.stream.randomness import keyed_generator
from unimodel.config_tokenizers import LatentActionConfig
from unimodel.tokenizers.image import to_unit
from unimodel.tokenizers.latent_action import LatentActionModel

WARMUP_STEPS = 20
LEAST_CHANGE_FRACTION = 0.05
"""Of a batch's mean change: what a pair that hardly changes is measured by."""
TINY = 1e-8
FREE_FRACTION = 0.5
"""Of the steps: latents are not rounded yet."""
NOISE = 0.3
"""Standard deviation that is added to them meanwhile; their own is 1."""
KMEANS_BATCHES = 16
COMMITMENT = 0.25


def train_latent_actions(
    sources: Sequence[Sequence[np.ndarray]],
    config: LatentActionConfig,
    seed: int,
    progress: Callable[[int, float], None],
) -> LatentActionModel:
    """Fits the model to the films of one or more sources in equal shares, each film uint8 frames [T + 1, height, width,
    3] as large as all of its source; `progress(step, share of the change that it does not explain)`.

    Raises ValueError when nothing ever changes in them, or their frames do not divide into patches.
    """
    pairs = [_pairs(films) for films in sources]
    pairs = [(before, after) for before, after in pairs if (before != after).any()]
    if not pairs:
        raise ValueError(
            "tokenizers.latent_action: no two neighbouring frames of the data differ, which tells nothing: leave it "
            "out, or take data in which something moves"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LatentActionModel(config)
        for before, _ in pairs:
            model.codes(before[:2])  # refuses frames that do not divide into patches before any work is done
        _fit(model, pairs, config, seed, progress)
    return model.eval()


def _pairs(films: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Neighbouring frames, earlier and later."""
    before, after = (np.concatenate([film[part] for film in films]) for part in (slice(None, -1), slice(1, None)))
    return before, after


def _fit(
    model: LatentActionModel,
    sources: Sequence[tuple[np.ndarray, np.ndarray]],
    config: LatentActionConfig,
    seed: int,
    progress: Callable[[int, float], None],
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    rng = keyed_generator(seed, "latent actions")
    free_steps = math.ceil(FREE_FRACTION * config.steps)
    for step in range(config.steps):
        if step == free_steps:
            with torch.no_grad():
                found = [model.latents(*_drawn(sources, number, config, rng)) for number in range(KMEANS_BATCHES)]
            model.codebook.place(torch.cat(found), rng)
        scale = min(1.0, (step + 1) / WARMUP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * step / config.steps))
        optimizer.param_groups[0]["lr"] = config.learning_rate * scale
        earlier, later = _drawn(sources, step, config, rng)
        latents = model.latents(earlier, later)
        if step < free_steps:
            said, committed = latents + NOISE * torch.randn_like(latents), latents.new_zeros(())
        else:
            said = model.codebook(latents)
            committed = (latents - said.detach()).square().mean()
            model.codebook.follow(latents.detach())
        left = _left(model.draw(earlier, said), earlier, later)
        optimizer.zero_grad()
        (left + COMMITMENT * committed).backward()
        optimizer.step()
        progress(step + 1, left.item())


def _drawn(
    sources: Sequence[tuple[np.ndarray, np.ndarray]], step: int, config: LatentActionConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A batch of pairs [pairs, 3, height, width] of one source, in turn."""
    pairs = sources[step % len(sources)]
    chosen = rng.integers(len(pairs[0]), size=config.batch_pairs)
    earlier, later = (to_unit(torch.from_numpy(frames[chosen])) for frames in pairs)
    return earlier, later


def _left(drawn: Tensor, earlier: Tensor, later: Tensor) -> Tensor:
    """Of each pair's own change, what is not explained: a step changes many pixels and a turn few, and both are done.
    Nothing at all may have been done as well."""
    change = (later - earlier).square().mean(dim=(1, 2, 3))
    least = LEAST_CHANGE_FRACTION * change.mean() + TINY
    return ((drawn - later).square().mean(dim=(1, 2, 3)) / (change + least)).mean()
