"""From a stage's settings to its memory."""

from __future__ import annotations

import torch
from torch import nn

from unimodel.config_memory import (
    CompressedConfig,
    EpisodicConfig,
    FastWeightConfig,
    MechanismConfig,
    MemoryConfig,
    RecurrentConfig,
    WindowConfig,
)
from unimodel.memory.compressed import CompressedMemory, Level
from unimodel.memory.episodic import EpisodicMemory
from unimodel.memory.fastweight import FastWeightMemory
from unimodel.memory.memory import Memory, Span
from unimodel.memory.recurrent import RecurrentMemory


def build_memory(config: MemoryConfig, grid: tuple[int, int], dim: int, scale: float, seed: int) -> Memory:
    """A memory beside a decoder of width `dim` whose embeddings have the standard deviation `scale`, for pictures of
    `grid` patches, with weights drawn from `seed`.

    Raises ValueError for pictures that a mechanism cannot cut up.
    """
    span = Span(config.segment_tokens, config.segment_frames + 1, config.truncation_segments, config.dropout_fraction)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mechanisms = {each.kind: _build(each, config, grid, dim, scale) for each in config.mechanisms}
    return Memory(mechanisms, span, grid[0] * grid[1], dim)


def _build(config: MechanismConfig, memory: MemoryConfig, grid: tuple[int, int], dim: int, scale: float) -> nn.Module:
    match config:
        case WindowConfig():
            return CompressedMemory((Level(config.frames, 1),), grid, dim, scale)
        case RecurrentConfig():
            return RecurrentMemory(config.tokens, dim, scale)
        case FastWeightConfig():
            return FastWeightMemory(config.tokens, config.heads, config.head_dim, config.momentum, dim, scale)
        case CompressedConfig():
            return CompressedMemory(tuple(Level(*level) for level in config.levels), grid, dim, scale)
        case EpisodicConfig():
            if config.capacity_frames < max(memory.segment_frames, config.recalled_frames):
                raise ValueError(
                    f"episodic: capacity_frames ({config.capacity_frames}) must hold a segment "
                    f"({memory.segment_frames} frames) and what is recalled ({config.recalled_frames})"
                )
            return EpisodicMemory(config.capacity_frames, config.recalled_frames, config.key_dim, grid, dim, scale)
