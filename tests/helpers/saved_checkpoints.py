"""Checkpoints of given tensors, as one rank or several would have written them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unimodel.training.checkpoint import TrainPosition, checkpoint_folder, publish_checkpoint
from unimodel.training.stored_state import Held, rank_file, write_held

Tensors = Mapping[str, torch.Tensor]


def save_checkpoint(
    folder: Path, position: TrainPosition, config: dict[str, Any], tensors: Mapping[str, Tensors], ranks: int = 1
) -> Path:
    """Publishes `tensors` (kind -> name -> tensor), each cut into as many parts as there are ranks."""
    published = checkpoint_folder(folder, position)
    hidden = folder / f".{published.name}.tmp"
    hidden.mkdir(parents=True)
    hashes = {}
    for rank in range(ranks):
        held = [
            Held(kind, name, tuple(value.shape), rank * size, value.flatten()[rank * size : (rank + 1) * size])
            for kind, values in tensors.items()
            for name, value in values.items()
            if rank * (size := -(-value.numel() // ranks)) < value.numel()
        ]
        hashes[rank_file(rank)] = write_held(hidden / rank_file(rank), held)
    publish_checkpoint(hidden, published, position, config, hashes)
    return published
