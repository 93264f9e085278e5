"""The visibility rule as the mask an attention kernel wants: dense boolean for SDPA, `BlockMask` for FlexAttention.

FlexAttention has no backward on CPU, so CPU runs (and tests) use the dense mask; CUDA runs use blocks, which skip
invisible tiles and need no length^2 memory. Both are built from `unimodel.batch.visible`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from unimodel.batch import PackedBatch, Visibility, dense_mask, visible

DENSE, BLOCKS = "sdpa", "block_masked"
"""Hugging Face attention names, for either mask. The second is FlexAttention by a name of ours: transformers refuses
"flex_attention" for decoders that do not say that they support it (Qwen3.5), though all call a function."""


def _attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **settings: Any) -> Any:
    """FlexAttention for block masks; the few queries of a cached step bring a dense one also on a GPU."""
    kind = "flex_attention" if isinstance(attention_mask, BlockMask) else DENSE
    return ALL_ATTENTION_FUNCTIONS[kind](module, query, key, value, attention_mask, **settings)


ALL_ATTENTION_FUNCTIONS.register(BLOCKS, _attend)


def attention_implementation(device: torch.device) -> str:
    """The Hugging Face attention name for a device."""
    return BLOCKS if device.type == "cuda" else DENSE


def attention_mask(batch: PackedBatch | Visibility, implementation: str) -> Tensor | BlockMask:
    """The explicit mask of a batch for an attention of that name; transformers passes either through untouched."""
    return block_mask(batch) if implementation.endswith(BLOCKS) else dense_mask(batch)


def block_mask(batch: PackedBatch | Visibility) -> BlockMask:
    """The rule as a FlexAttention block mask [rows, 1, length, length]."""
    parts = (batch.document, batch.block, batch.stream)

    def rule(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        del head
        at_query: Any = tuple(part[row, query] for part in parts)
        at_key: Any = tuple(part[row, key] for part in parts)
        return visible(query, key, at_query, at_key)

    rows, length = batch.document.shape
    return create_block_mask(rule, rows, None, length, length, device=batch.document.device.type)
