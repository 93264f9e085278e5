"""Vector quantisation with a small codebook (VQ-VAE, arXiv 1711.00937; here the codes follow their latents as moving
averages, section A.1 there).

A few codes and straight-through gradients alone end with one code for everything. So training begins without rounding,
the codebook is then placed by k-means on the latents that this has found, and a code that nothing chooses any more
moves to a latent that no code is near (as in Jukebox, arXiv 2005.00341, section 3).
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

DECAY = 0.97
DEAD_SHARE = 0.02
"""Of a code's even share of the latents: below it a code counts as unused."""


class Codebook(nn.Module):
    """Latents [n, dims] to codes [n]: the nearest of `vectors` [codes, dims]."""

    vectors: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, num_codes: int, dims: int) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.register_buffer("vectors", torch.zeros(num_codes, dims))
        self.register_buffer("counts", torch.zeros(num_codes), persistent=False)
        self.register_buffer("sums", torch.zeros(num_codes, dims), persistent=False)

    def codes(self, latents: Tensor) -> Tensor:
        """int64 [n]."""
        return torch.cdist(latents, self.vectors).argmin(dim=1)

    def forward(self, latents: Tensor) -> Tensor:
        """[n, dims] the vectors of the latents' codes, with straight-through gradients."""
        return latents + (self.vectors[self.codes(latents)] - latents).detach()

    @torch.no_grad()
    def place(self, latents: Tensor, rng: np.random.Generator) -> None:
        """Begins with the k-means of `latents` [n, dims]."""
        known = latents.double().numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a cluster of nothing is a code that `follow` moves
            centres, owners = kmeans2(known, self.num_codes, minit="++", rng=rng)
        self.vectors.copy_(torch.from_numpy(centres))
        self.counts.copy_(torch.from_numpy(np.bincount(owners, minlength=self.num_codes) / len(known)))
        self.sums.copy_(self.vectors * self.counts[:, None])

    @torch.no_grad()
    def follow(self, latents: Tensor) -> None:
        """Moves every code towards those of `latents` [n, dims] that chose it, and unused codes to latents that are far
        from all codes."""
        distances, codes = torch.cdist(latents, self.vectors).min(dim=1)
        chosen = nn.functional.one_hot(codes, self.num_codes).to(latents.dtype)
        self.counts.lerp_(chosen.mean(dim=0), 1 - DECAY)
        self.sums.lerp_(chosen.T @ latents / len(latents), 1 - DECAY)
        self.vectors.copy_(self.sums / self.counts.clamp_min(1e-9)[:, None])
        for code in torch.nonzero(self.counts < DEAD_SHARE / self.num_codes).ravel().tolist():
            farthest = int(distances.argmax())
            distances[farthest] = 0.0
            self.counts[code] = 1 / self.num_codes
            self.vectors[code] = latents[farthest]
            self.sums[code] = latents[farthest] / self.num_codes
