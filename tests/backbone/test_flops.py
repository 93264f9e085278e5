"""Operations that are told from the sizes are those that torch counts.

Run: pytest tests/backbone/test_flops.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from toy_sequences import TINY_BACKBONE, VOCABULARY, laid_out
from transformers import AutoModelForCausalLM

from unimodel.backbone.flops import attention_operations, decoder_flops
from unimodel.backbone.model import Backbone, build_decoder, huggingface_config
from unimodel.batch import PackedBatch, pack
from unimodel.layout import CAUSAL, NO_TARGET
from unimodel.training.optimizer import freeze

ROWS, LENGTH, TARGETS = 3, 24, 5
GROUPED = TINY_BACKBONE.model_copy(update={"num_heads": 4, "num_key_value_heads": 2})


def full_rows() -> PackedBatch:
    """Rows without padding, each with a few targets."""
    rng = np.random.default_rng(0)
    rows = [[laid_out(rng.integers(3, 30, size=LENGTH), np.full(LENGTH, CAUSAL))] for _ in range(ROWS)]
    batch = pack(rows, LENGTH, pad_id=0)
    batch.target.fill_(NO_TARGET)[:, :TARGETS] = 4
    return batch


def counted(backbone: Backbone, batch: PackedBatch) -> tuple[int, int]:
    """What torch counts of forward and backward in linear layers, and in scores and values."""
    with FlopCounterMode(display=False) as counter:
        backbone(batch).float().sum().backward()
    by_module: dict[str, dict[Any, int]] = counter.get_flop_counts()
    scores = torch.ops.aten.bmm
    linear = sum(flops for operation, flops in by_module["Global"].items() if operation is not scores)
    attention = sum(
        flops[scores] for name, flops in by_module.items() if name.endswith("self_attn") and scores in flops
    )
    return linear, attention


@pytest.mark.parametrize("family", ["qwen3_5_text", "qwen3", "llama"])
@pytest.mark.parametrize("frozen", [(), ("decoder.model.layers.1.mlp.*",)], ids=["all train", "a frozen MLP"])
def test_operations_are_those_that_torch_counts(family: str, frozen: tuple[str, ...]) -> None:
    """Linear layers and the head exactly; scores and values exactly, where all keys of a row are computed."""
    backbone = Backbone(build_decoder(GROUPED.model_copy(update={"family": family}), VOCABULARY, 0))
    backbone.decoder.set_attn_implementation("eager")
    freeze(backbone, frozen)
    linear, attention = counted(backbone, full_rows())
    told = decoder_flops(backbone.decoder, tokens=ROWS * LENGTH, length=LENGTH, targets=ROWS * TARGETS)
    assert attention == ROWS * LENGTH * LENGTH * attention_operations(backbone.decoder.config)
    assert told == linear + attention


def test_sizes_are_enough() -> None:
    """A decoder without memory for its weights: what a plan of a large run has."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(huggingface_config(GROUPED, VOCABULARY))
    sizes = {"tokens": 100, "length": 50, "targets": 10}
    assert decoder_flops(empty, **sizes) == decoder_flops(build_decoder(GROUPED, VOCABULARY, 0), **sizes)


def test_padding_is_no_work_and_the_head_runs_at_targets_alone() -> None:
    decoder = build_decoder(GROUPED, VOCABULARY, 0)
    few, many = (decoder_flops(decoder, tokens=100, length=50, targets=targets) for targets in (0, 10))
    assert many - few == 10 * 6 * GROUPED.hidden_size * VOCABULARY.size
    assert decoder_flops(decoder, tokens=200, length=50, targets=0) == 2 * few
