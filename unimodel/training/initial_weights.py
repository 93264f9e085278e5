"""Weights into a backbone by name: what was kept, what is new, what was dropped is said, never silent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unimodel.run_folder import RunFolder
from unimodel.training.checkpoint import newest_checkpoint

EXPORT_WEIGHTS, MEMORY_WEIGHTS = "model.safetensors", "memory.safetensors"
PREFIX, MEMORY = "decoder.", "memory."
"""What the names of a decoder's weights begin with, and those of a memory: a stage may have another than the one before
it, or none."""


def read_initial_weights(source: Path | None) -> Mapping[str, Tensor]:
    """The weights of a run folder's newest checkpoint, or of an export; empty for None.

    Raises FileNotFoundError when `source` is neither.
    """
    if source is None:
        return {}
    if (source / EXPORT_WEIGHTS).exists():
        files = {PREFIX: source / EXPORT_WEIGHTS, MEMORY: source / MEMORY_WEIGHTS}
        return {
            f"{prefix}{name}": value.float()
            for prefix, file in files.items()
            if file.exists()
            for name, value in load_file(file).items()
        }
    checkpoint = newest_checkpoint(RunFolder(source).checkpoints, lambda _: None)
    if checkpoint is None:
        raise FileNotFoundError(f"initial_weights ({source}) is neither a run folder with checkpoints nor an export")
    return checkpoint.state().weights(averaged=True)


def load_by_name(model: nn.Module, weights: Mapping[str, Tensor], *, whole: bool, but: str = "") -> str:
    """Copies every weight whose name and shape fit; returns a line saying what was kept, is new, or was dropped.

    Raises ValueError when `whole` and something does not fit: a run's own checkpoint must restore all of it, `but` what
    has a name that begins so.
    """
    kept, new = 0, []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = weights.get(name)
            if value is not None and value.shape == parameter.shape:
                parameter.copy_(value)
                kept += 1
            else:
                new.append(name)
    names = {name for name, _ in model.named_parameters()}
    dropped = [name for name in weights if name not in names]
    wrong = [[name for name in some if not (but and name.startswith(but))] for some in (new, dropped)]
    if whole and any(wrong):
        raise ValueError(
            f"the checkpoint is of another model: {len(wrong[0])} parameters are missing or of another shape, "
            f"{len(wrong[1])} are unknown, e.g. {(wrong[0] + wrong[1])[0]}"
        )
    if not weights:
        return "weights from scratch"
    return f"weights by name: {kept} kept, {len(new)} new, {len(dropped)} dropped"
