"""The tokens that some worlds read next, side by side in one forward, and what each of them may look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimodel.batch import PADDING_DOCUMENT, visible
from unimodel.layout import CLEAN, Layout
from unimodel.world.cache import KeyValueCache, Writing


@dataclass(frozen=True, slots=True)
class Unread:
    """Tokens `[start, stop)` of a world's window, which lies in row `row` of the cache up to `start`."""

    row: int
    ids: np.ndarray
    layout: Layout
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Passage:
    """What one forward of the decoder needs: shorter rows are padded at their end.

    input_ids     int64 [rows, tokens]
    position_ids  int64 [4, rows, tokens] (index, time, height, width)
    mask          bool [rows, 1, tokens, places of the cache]
    writing       where keys and values go
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    writing: Writing


def lay_passage(
    unread: Sequence[Unread],
    tokens: int,
    cache: KeyValueCache,
    pad_id: int,
    device: torch.device,
    remembered: Tensor,
) -> Passage:
    """Puts the unread tokens of several worlds side by side, `tokens` a row. The cache must have room for them, behind
    what each world remembers: bool [rows, places] where that says anything."""
    before = remembered.shape[1]
    ids = np.full((len(unread), tokens), pad_id, dtype=np.int64)
    positions = np.zeros((4, len(unread), tokens), dtype=np.int64)
    document = np.full((len(unread), tokens), PADDING_DOCUMENT, dtype=np.int64)
    block = np.full((len(unread), tokens), -1, dtype=np.int64)
    for row, part in enumerate(unread):
        here, there = slice(0, len(part)), slice(part.start, part.stop)
        ids[row, here] = part.ids[there]
        positions[0, row, here] = before + np.arange(part.start, part.stop)
        positions[1:, row, here] = part.layout.position_ids[:, there]
        positions[1, row, here] += before
        document[row, here] = 0
        block[row, here] = part.layout.blocks[there]
    starts = [before + part.start for part in unread]
    writing = cache.at([part.row for part in unread], starts, tokens)
    input_ids, position_ids, of_document, of_block = (
        torch.from_numpy(array).to(device) for array in (ids, positions, document, block)
    )
    mask = _mask(of_document, of_block, torch.tensor(starts, device=device), writing.extent)
    mask[:, 0, :, :before] &= remembered[:, None]
    return Passage(input_ids, position_ids, mask, writing)


def _mask(document: Tensor, block: Tensor, starts: Tensor, extent: int) -> Tensor:
    """bool [rows, 1, tokens, extent]: all that was read before, and of the new tokens what the one rule allows."""
    rows, tokens = document.shape
    index = torch.arange(tokens, device=document.device)
    clean = torch.full_like(document, CLEAN)
    query = (document[:, :, None], block[:, :, None], clean[:, :, None])
    key = (document[:, None], block[:, None], clean[:, None])
    among_new = visible(index[:, None], index[None], query, key)
    places = torch.arange(extent, device=document.device)
    mask = (places < starts[:, None])[:, None].expand(rows, tokens, extent).contiguous()
    where = (starts[:, None] + index)[:, None].expand(rows, tokens, tokens)
    return mask.scatter(2, where, among_new)[:, None]
