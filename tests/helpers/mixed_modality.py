"""Trains on batches in which a random rank lacks any modality, or has nothing to answer at all; prints the losses.

Run under torchrun: mixed_modality.py OUT.json STEPS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch.distributed as dist
from toy_sequences import BUILDER, PAD_ID, TINY_BACKBONE, VOCABULARY, toy_episode

from data_pipelines.stream.randomness import keyed_generator
from unimodel.backbone.model import Backbone, build_decoder
from unimodel.batch import CorruptedSequence, PackedBatch, pack
from unimodel.config import EngineConfig, StageConfig
from unimodel.objectives.corruption import corrupt
from unimodel.training.engine import build_engine, start_process_group
from unimodel.training.named_state import NamedState
from unimodel.training.step import train_step

ROWS, ROW_TOKENS = 6, 192
"""Two rows to each of three ranks, three to each of two."""
KINDS = ("text", "text_to_image", "image_to_text", "interaction", "clip", "nothing")
OBJECTIVE = {
    "text": "next",
    "image_to_text": "next",
    "text_to_image": "masked",
    "interaction": "masked",
    "clip": "masked",
}
STAGE = StageConfig.model_validate(
    {
        "number": 1,
        "steps": 10_000,
        "batch": {"rows": ROWS, "row_tokens": ROW_TOKENS},
        "mixture": ({"sequence": "clip", "objective": "masked"},),
        "objectives": {"next": {"kind": "next_token"}, "masked": {"kind": "masked"}},
        "optimizer": {"kind": "adamw", "learning_rate": 3e-3, "epsilon": 0.05},
    }
)


def row(step: int, number: int, kind: str) -> list[CorruptedSequence]:
    """One sequence of a kind, or none."""
    if kind == "nothing":
        return []
    rng = keyed_generator(step, number)
    episode = toy_episode(seed=1000 * step + number)
    if kind == "text":
        sequence = BUILDER.text(episode.captions[0], 0, 8, episode.key)
    else:
        sequence = BUILDER.build(kind, episode, 0, 3)
    index = list(STAGE.objectives).index(OBJECTIVE[kind])
    return [corrupt(sequence, VOCABULARY, STAGE.objectives[OBJECTIVE[kind]], index, rng)]


def local_batch(step: int) -> PackedBatch:
    """This rank's rows. Neighbouring rows mostly are of one kind, so that whole ranks lack the others."""
    kinds = np.repeat(np.random.default_rng(step).choice(KINDS, size=3), 2)
    if (kinds == "nothing").all():
        kinds[0] = "text"
    rows = [row(step, number, str(kind)) for number, kind in enumerate(kinds)]
    share = ROWS // dist.get_world_size()
    first = dist.get_rank() * share
    return pack(rows[first : first + share], ROW_TOKENS, PAD_ID)


def main() -> None:
    out, steps = Path(sys.argv[1]), int(sys.argv[2])
    losses: dict[int, list[float]] = {}
    for zero in (1, 2, 3):
        settings = EngineConfig(zero=zero)
        device = start_process_group(settings)
        engine = build_engine(Backbone(build_decoder(TINY_BACKBONE, VOCABULARY, 0)), settings, STAGE, device)
        NamedState(engine, {}).initialise(0, with_average=False)
        losses[zero] = [train_step(engine, local_batch(step), STAGE, VOCABULARY).loss for step in range(steps)]
        engine.destroy()
    if dist.get_rank() == 0:
        out.write_text(json.dumps(losses))
    dist.barrier()


if __name__ == "__main__":
    main()
