"""Trains decoders of several shapes on batches in which the end of every row may have nothing to answer.

Run under torchrun: shared_rows.py FOLDER. All ranks share the same rows; FOLDER/NAME gets the state and the losses.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from mixed_modality import ROW_TOKENS, ROWS, row
from mixed_modality import STAGE as MIXED
from toy_sequences import PAD_ID, TINY_BACKBONE, VOCABULARY, laid_out

from data_pipelines.stream.randomness import keyed_generator
from unimodel.backbone.model import Backbone, build_decoder
from unimodel.backbone.sequence_parallel import build_sequence_group
from unimodel.batch import CorruptedSequence, PackedBatch, pack
from unimodel.config import EngineConfig
from unimodel.layout import NO_TARGET
from unimodel.training.engine import build_engine, start_process_group
from unimodel.training.named_state import NamedState
from unimodel.training.step import train_step
from unimodel.training.stored_state import rank_file, write_held

STEPS = 12
LIMIT = timedelta(minutes=1)
DECODERS: dict[str, dict[str, Any]] = {
    "grid": {},
    "one-key-head": {"family": "qwen3", "num_heads": 4, "num_key_value_heads": 1},
    "key-heads-divide": {"family": "llama", "num_heads": 4, "num_key_value_heads": 2, "attention_bias": True},
}
CASES = (*(("grid", zero) for zero in range(4)), ("one-key-head", 1), ("key-heads-divide", 3))
"""Decoder and ZeRO stage."""
OPTIMIZER = MIXED.optimizer.model_copy(update={"learning_rate": 0.05, "gradient_clip": 100.0})
"""With Adam's usual epsilon, or clipping, a gradient that is a factor too small or too large would not show."""
STAGE = MIXED.model_copy(update={"optimizer": OPTIMIZER})


def noisy_copy(rng: np.random.Generator) -> CorruptedSequence:
    """A block to be told, in a stream of its own, in front of its clean copy."""
    ids = rng.integers(3, VOCABULARY.text_size, size=24)
    target = np.concatenate([ids, np.full(24, NO_TARGET)])
    ids[rng.random(24) < 0.5] = 3
    stream = np.repeat([1, 0], 24)
    return laid_out(np.concatenate([ids, target[:24]]), np.repeat([0, 1], 24), stream, target)


def rows_of(step: int) -> list[list[CorruptedSequence]]:
    """Several documents a row: blocks, noisy copies, text. In every third step only the first half has anything."""
    rng = keyed_generator(step)
    rows = []
    for number in range(ROWS):
        captions = [row(step, 10 * number + part, "image_to_text")[0] for part in range(2)]
        film = row(step, number, "interaction")[0]
        rows.append(captions[:1] if step % 3 == 0 else [captions[0], film, noisy_copy(rng), captions[1]])
    return rows


def batch_of(step: int) -> PackedBatch:
    """The same on all ranks."""
    return pack(rows_of(step), ROW_TOKENS, PAD_ID)


def train_decoder(folder: Path, name: str, zero: int) -> None:
    """A few steps, and what came of them."""
    size = dist.get_world_size()
    settings = EngineConfig(zero=zero, sequence_parallel=size, activation_checkpointing=zero == 2)
    device = start_process_group(settings)
    sequence = build_sequence_group(size, LIMIT)
    decoder = build_decoder(TINY_BACKBONE.model_copy(update=DECODERS[name]), VOCABULARY, 0)
    engine = build_engine(Backbone(decoder), settings, STAGE, device, sequence)
    state = NamedState(engine, {})
    state.initialise(0, with_average=False)
    reports = [train_step(engine, batch_of(step), STAGE, VOCABULARY) for step in range(STEPS)]
    out = folder / f"{name}-{zero}"
    out.mkdir(exist_ok=True)
    write_held(out / rank_file(dist.get_rank()), state.held())
    if dist.get_rank() == 0:
        told = [{"loss": r.loss, "norm": r.gradient_norm, "tokens": r.tokens, "nats": r.modality_nats} for r in reports]
        (out / "losses.json").write_text(json.dumps(told))
    engine.destroy()


def main() -> None:
    start_process_group(EngineConfig())
    for name, zero in CASES:
        train_decoder(Path(sys.argv[1]), name, zero)
    dist.barrier()


if __name__ == "__main__":
    main()
