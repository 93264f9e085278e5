"""Positions of one dimension, for decoders that know no grid."""

from __future__ import annotations

import torch
from torch import Tensor

from unimodel.layout import CLEAN


def reading_index(document: Tensor, stream: Tensor) -> Tensor:
    """[rows, length] how many tokens of its document each token has before it.

    Only its own stream reads a noisy token, so it takes no place: it counts the clean tokens before it and those of its
    own run. A noisy copy in front of its clean one stands where that does.
    """
    clean = (stream == CLEAN).long()
    before = clean.cumsum(dim=1) - clean
    index = torch.arange(document.shape[1], device=document.device).expand_as(document)
    among_own = index - _run_starts(index, document, stream)
    return before - before.gather(1, _run_starts(index, document)) + among_own * (1 - clean)


def _run_starts(index: Tensor, *kinds: Tensor) -> Tensor:
    """[rows, length] where the run of neighbours begins that are alike in all `kinds`."""
    begins = torch.zeros_like(index, dtype=torch.bool)
    for kind in kinds:
        begins[:, 1:] |= kind[:, 1:] != kind[:, :-1]
    return torch.where(begins, index, 0).cummax(dim=1).values
