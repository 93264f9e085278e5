"""Trains the image tokenizer: mean squared error, Adam with a cosine schedule, frames drawn by a keyed generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from data_pipelines.stream.randomness import keyed_generator
from unimodel.config_tokenizers import ImageTokenizerConfig
from unimodel.tokenizers.image import ImageTokenizer, to_unit

WARMUP_STEPS = 20


def train_image_tokenizer(
    sources: Sequence[np.ndarray], config: ImageTokenizerConfig, seed: int, progress: Callable[[int, float], None]
) -> ImageTokenizer:
    """Fits the autoencoder to uint8 frames [frames, height, width, 3] of one or more sources in equal shares;
    `progress(step, mean_squared_error)`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = ImageTokenizer(config)
        for frames in sources:
            tokenizer.encode(frames[:1])  # refuses frames that do not divide into patches before any work is done
        _fit(tokenizer, sources, config, seed, progress)
    return tokenizer.eval()


def _fit(
    tokenizer: ImageTokenizer,
    sources: Sequence[np.ndarray],
    config: ImageTokenizerConfig,
    seed: int,
    progress: Callable[[int, float], None],
) -> None:
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    generator = keyed_generator(seed, "image tokenizer")
    for step in range(config.steps):
        scale = min(1.0, (step + 1) / WARMUP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * step / config.steps))
        optimizer.param_groups[0]["lr"] = config.learning_rate * scale
        frames = sources[step % len(sources)]
        pixels = to_unit(torch.from_numpy(frames[generator.integers(len(frames), size=config.batch_frames)]))
        loss = F.mse_loss(tokenizer.forward_blurred(pixels), pixels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress(step + 1, loss.item())
