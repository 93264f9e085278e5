"""Finite scalar quantisation (FSQ, arXiv 2309.15505): every latent dimension is rounded to a few levels.

There is no codebook to collapse, no auxiliary loss, and every code is used when the data needs it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class FiniteScalarQuantizer(nn.Module):
    """Latents [..., dims] to codes [...]: dimension i is squashed and rounded to `levels[i]` values (section 3.1)."""

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer(
            "basis", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]), persistent=False
        )
        self.num_codes = math.prod(levels)

    def forward(self, latents: Tensor) -> Tensor:
        """[..., dims] quantised to values in [-1, 1], with straight-through gradients."""
        bounded = self._bound(latents)
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / (self.levels // 2)

    def blurred(self, latents: Tensor, noise: Tensor) -> Tensor:
        """As `forward`, but uniform `noise` in [-0.5, 0.5] stands in for rounding (arXiv 1611.01704, section 3)."""
        return (self._bound(latents) + noise) / (self.levels // 2)

    def codes(self, quantised: Tensor) -> Tensor:
        """[..., dims] quantised values to int64 codes [...]."""
        half = self.levels // 2
        return (((quantised * half).round() + half).long() * self.basis).sum(dim=-1)

    def values(self, codes: Tensor) -> Tensor:
        """int64 codes [...] to quantised values [..., dims]."""
        half = self.levels // 2
        return ((codes[..., None] // self.basis) % self.levels - half) / half

    def _bound(self, latents: Tensor) -> Tensor:
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        shift = (offset / half).atanh()
        return (latents + shift).tanh() * half - offset
