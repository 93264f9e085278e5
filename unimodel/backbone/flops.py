"""Floating-point operations that training asks of a decoder, told from its modules: no formula per family.

The convention is that of PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B): a multiplication and an addition
are two operations; the backward pass takes two for each of the forward pass; every token is charged attention to its
whole row, 12 * layers * heads * head_dim * length in all, whatever it sees; recomputed activations do not count. Norms,
rotary positions, softmax, lookups and the optimizer are left out. So the number is comparable with that of others, and
higher than what a kernel computes that skips invisible tiles.
"""

from __future__ import annotations

from typing import Any

from torch import nn

FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = 2, 2, 2
"""Operations per weight and token of a matrix multiplication."""


def decoder_flops(decoder: Any, *, tokens: int, length: int, targets: int) -> float:
    """Operations of forward and backward over `tokens` tokens in rows of `length`; `targets` of them have a target, and
    the head runs there alone.

    `decoder` is a Hugging Face decoder, also one on the meta device or with its weights sharded. Give `tokens` without
    padding, and padding is no useful work. A frozen matrix has no weight gradient.
    """
    linear = sum(_operations(module) for module in decoder.model.layers.modules() if isinstance(module, nn.Linear))
    per_token = linear + length * attention_operations(decoder.config)
    return float(tokens * per_token + targets * _operations(decoder.lm_head))


def attention_operations(config: Any) -> int:
    """Of scores and weighted values, forward and backward, per query and key. Layers of linear attention have none."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    heads = config.num_attention_heads * config.head_dim
    return 12 * heads * sum(kind != "linear_attention" for kind in kinds)


def _operations(layer: nn.Linear) -> int:
    """Per token. Of sizes, not of the weight: sharded ones are empty."""
    per_weight = FORWARD + INPUT_GRADIENT + WEIGHT_GRADIENT * layer.weight.requires_grad
    return layer.in_features * layer.out_features * per_weight
