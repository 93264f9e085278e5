"""Trains a run on several ranks of which one misbehaves, for the checks that name it.

Run under torchrun: observed_ranks.py flip|skip|slow CONFIG RANK
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from unimodel.cli import main
from unimodel.training.stage_trainer import StageTrainer

FLIPPED = "decoder.model.layers.1.mlp.up_proj.weight"
SKIPPED = "decoder.model.layers.1.mlp"
AT_STEP = 5
SLOW_SECONDS = 0.2


def flip(trainer: StageTrainer) -> None:
    """The lowest bit of one weight."""
    weight = trainer.engine.module.get_parameter(FLIPPED).data.view(-1)
    bits = weight.view(torch.int16 if weight.element_size() == 2 else torch.int32)
    bits[7] ^= 1


def skip(trainer: StageTrainer) -> None:
    """One MLP: what goes in comes out."""
    trainer.engine.module.get_submodule(SKIPPED).forward = lambda hidden: hidden


def slow(trainer: StageTrainer) -> None:
    """Its forward pass, from now on."""
    trainer.engine.module.get_submodule(SKIPPED).register_forward_hook(lambda *_: time.sleep(SLOW_SECONDS))


def misbehave(what: str, rank: int) -> None:
    """Ahead of one step of one rank."""
    step = StageTrainer._step

    def changed(self: StageTrainer, stage_step: int) -> Any:
        if dist.get_rank() == rank and self.position.step + 1 == AT_STEP:
            {"flip": flip, "skip": skip, "slow": slow}[what](self)
        return step(self, stage_step)

    StageTrainer._step = changed


if __name__ == "__main__":
    misbehave(sys.argv[1], int(sys.argv[3]))
    sys.argv[1:] = ["train", str(Path(sys.argv[2]))]
    main()
