"""The checkpoint that all ranks go on from: they look at it together, each at its share of the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from unimodel.training.checkpoint import Checkpoint, all_damaged, list_checkpoints, load_checkpoint, passed_over
from unimodel.training.checkpoint_store import CheckpointStore
from unimodel.training.collective import from_all_ranks, from_main_rank


def fetch_newer(folder: Path, address: str, say: Callable[[str], None]) -> None:
    """Brings the checkpoint at `address` into `folder` where that has none as new. Collective: rank 0 does it.

    Raises OSError on all ranks when the store cannot be reached: going on without looking could lose steps.
    """
    error = None
    if dist.get_rank() == 0:
        try:
            here = list_checkpoints(folder)
            fetched = CheckpointStore(address).download_newer(folder, here[0].name if here else None)
            if fetched is not None:
                say(f"{fetched.name} was fetched from {address}")
        except OSError as problem:
            error = f"checkpoints at {address} cannot be read ({problem})"
    error = from_main_rank(error)
    if error is not None:
        raise OSError(error)


def agreed_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """`newest_checkpoint` for all ranks at once. Collective; raises ValueError on all when every one is damaged."""
    candidates: list[Path] = from_main_rank(list_checkpoints(folder))
    for candidate in candidates:
        checkpoint, error = None, None
        try:
            checkpoint = load_checkpoint(candidate, (dist.get_rank(), dist.get_world_size()))
        except ValueError as damage:
            error = damage
        errors = [found for found in from_all_ranks(error) if found is not None]
        if not errors:
            return checkpoint
        warn(passed_over(errors[0]))
    if candidates:
        raise all_damaged(folder)
    return None
