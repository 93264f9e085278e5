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
from unimodel.memory.by_pose import PoseMemory
from unimodel.memory.compressed import CompressedMemory, Level, patch_places
from unimodel.memory.episodic import EpisodicMemory
from unimodel.memory.fastweight import FastWeightMemory
from unimodel.memory.memory import Memory, Span
from unimodel.memory.recurrent import RecurrentMemory
from unimodel.tokenizers.odometer import Odometer


def build_memory(
    config: MemoryConfig,
    grid: tuple[int, int],
    dim: int,
    scale: float,
    seed: int,
    hidden_id: int,
    odometer: Odometer | None = None,
) -> Memory:
    """A memory beside a decoder of width `dim` whose embeddings have the standard deviation `scale`, for pictures of
    `grid` patches, with weights drawn from `seed`. `hidden_id` stands for a code of theirs that is to be foretold; the
    `odometer` is for a memory that recalls by pose.

    Raises ValueError for pictures that a mechanism cannot cut up, a capacity that is too small, or where an odometer is
    needed and there is none, or one of other pictures.
    """
    span = Span(config.segment_tokens, config.segment_frames + 1, config.truncation_segments, config.dropout_fraction)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mechanisms = {
            each.kind: _build(each, config, grid, dim, scale, hidden_id, odometer) for each in config.mechanisms
        }
    return Memory(mechanisms, span, grid[0] * grid[1], dim)


def _build(
    config: MechanismConfig,
    memory: MemoryConfig,
    grid: tuple[int, int],
    dim: int,
    scale: float,
    hidden_id: int,
    odometer: Odometer | None,
) -> nn.Module:
    match config:
        case WindowConfig():
            return CompressedMemory((Level(config.frames, 1),), grid, dim, scale)
        case RecurrentConfig():
            if config.by == "patch":
                return RecurrentMemory(patch_places(*grid, 1, torch.device("cpu")), hidden_id, dim, scale)
            return RecurrentMemory(torch.zeros(2, config.tokens, dtype=torch.int64), None, dim, scale)
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
            if config.by == "pose":
                return _by_pose(config, memory, grid, dim, scale, odometer)
            return EpisodicMemory(config.capacity_frames, config.recalled_frames, config.key_dim, grid, dim, scale)


def _by_pose(
    config: EpisodicConfig,
    memory: MemoryConfig,
    grid: tuple[int, int],
    dim: int,
    scale: float,
    odometer: Odometer | None,
) -> PoseMemory:
    if odometer is None:
        raise ValueError(
            "episodic: by: pose needs an odometer, and the run has none: run `unimodel tokenizer train CONFIG`"
        )
    if odometer.shape.num_codes != grid[0] * grid[1]:
        raise ValueError(
            f"episodic: the odometer is of pictures of {odometer.shape.num_codes} codes, and these have "
            f"{grid[0] * grid[1]}: delete its folder and run `unimodel tokenizer train CONFIG`"
        )
    window = max((each.frames for each in memory.mechanisms if isinstance(each, WindowConfig)), default=0)
    if config.capacity_frames < window + config.recalled_frames:
        raise ValueError(
            f"episodic: capacity_frames ({config.capacity_frames}) must hold the frames of the window ({window}), "
            f"which are not recalled, and what is recalled ({config.recalled_frames})"
        )
    return PoseMemory(config, window, odometer, grid, dim, scale)
