"""Which of the hidden tokens of a frame a pass settles: the surest, along MaskGIT's cosine (arXiv 2202.04200)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from data_pipelines.stream.randomness import keyed_number
from unimodel.sampling.fill import FillSettings


def choose(
    logits: Tensor, step: int, steps: int, settings: FillSettings, generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Codes [rows, tokens] int64 and how sure they are, float64, from logits [rows, tokens, codes] of pass `step`.

    Row i draws from `generators[i]` alone, so that worlds stepped together draw as if each were alone. In float64:
    float32 cuts the tail of the noise and acts as a lower temperature (arXiv 2409.02908).
    """
    log_probabilities = logits.double().log_softmax(dim=-1)
    scores = log_probabilities
    if settings.temperature > 0:
        scores = log_probabilities / settings.temperature + _gumbel(log_probabilities, generators)
    chosen = scores.argmax(dim=-1)
    confidence = log_probabilities.gather(-1, chosen[..., None]).squeeze(-1)
    falling = settings.choice_temperature * (1 - (step + 1) / steps)
    return chosen, confidence + falling * _gumbel(confidence, generators) if falling else confidence


def still_hidden(hidden: Tensor, confidence: Tensor, step: int, steps: int) -> Tensor:
    """bool [rows, tokens]: what stays hidden after pass `step`, the least sure of `hidden`; nothing after the last."""
    count = math.floor(math.cos(math.pi / 2 * (step + 1) / steps) * hidden.shape[1]) if step + 1 < steps else 0
    order = confidence.masked_fill(~hidden, math.inf).argsort(dim=1, stable=True)
    return torch.zeros_like(hidden).scatter(1, order[:, :count], True) & hidden


def frame_generator(seed: int, frame: int, device: torch.device) -> torch.Generator:
    """The noise of a world's frame: a pure function of the world's seed and the frame's number."""
    return torch.Generator(device).manual_seed(keyed_number("frame", seed, frame) >> 1)


def _gumbel(like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    rows = [torch.empty_like(row).exponential_(generator=g) for row, g in zip(like, generators, strict=True)]
    return -torch.stack(rows).log()
