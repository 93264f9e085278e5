"""Trains the audio tokenizer: squared error of log-mel spectra, Adam with a cosine schedule, keyed draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_pipelines.stream.randomness import keyed_generator
from unimodel.config_tokenizers import AudioTokenizerConfig
from unimodel.tokenizers.audio import AudioTokenizer

WARMUP_STEPS = 20
PIECE_HOPS = 32
"""Hops of one training example."""


def train_audio_tokenizer(
    sounds: Sequence[np.ndarray], config: AudioTokenizerConfig, seed: int, progress: Callable[[int, float], None]
) -> AudioTokenizer:
    """Fits the autoencoder to `sounds`, each float [samples] as `AudioTokenizer.fitted` gives it; `progress(step, share
    of the spectra's variance that is lost)`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = AudioTokenizer(config)
        samples = np.concatenate([_padded(sound, config.hop_samples) for sound in sounds])
        pieces = torch.from_numpy(samples).reshape(-1, PIECE_HOPS * config.hop_samples)
        _fit(tokenizer, pieces, config, seed, progress)
    return tokenizer.eval()


def _padded(sound: np.ndarray, hop_samples: int) -> np.ndarray:
    return np.pad(sound, (0, -len(sound) % (PIECE_HOPS * hop_samples))).astype(np.float32)


def _fit(
    tokenizer: AudioTokenizer,
    pieces: Tensor,
    config: AudioTokenizerConfig,
    seed: int,
    progress: Callable[[int, float], None],
) -> None:
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    generator = keyed_generator(seed, "audio tokenizer")
    loudness = pieces.square().mean(dim=1).double()
    # Worlds are silent most of the time, and silence is learnt at once.
    chance = (loudness + loudness.mean() * 0.1 + 1e-12).sqrt().numpy()
    chance /= chance.sum()
    for step in range(config.steps):
        scale = min(1.0, (step + 1) / WARMUP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * step / config.steps))
        optimizer.param_groups[0]["lr"] = config.learning_rate * scale
        chosen = generator.choice(len(pieces), size=max(1, config.batch_hops // PIECE_HOPS), p=chance)
        spectra = tokenizer.mel(pieces[chosen])
        loss = F.mse_loss(tokenizer(spectra), spectra)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress(step + 1, loss.item() / max(spectra.var().item(), 1e-12))
