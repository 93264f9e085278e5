"""What a plan says of one micro-batch against the same micro-batch computed for real."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unimodel.backbone.attention import attention_implementation
from unimodel.backbone.model import Backbone, build_decoder
from unimodel.batch import CorruptedSequence, PackedBatch, pack
from unimodel.config import BackboneConfig
from unimodel.layout import CAUSAL, CLEAN, NO_TARGET
from unimodel.objectives.loss import loss_sums
from unimodel.planning import trace
from unimodel.planning.trace import MicroBatch, Watch, trace_micro_batch
from unimodel.vocabulary import Modality, Vocabulary

VOCABULARY = Vocabulary(text_size=900, image_size=300, action_size=7, reward_size=11)
BACKBONE = BackboneConfig(
    hidden_size=64, num_layers=3, num_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=160
)
ROWS, LENGTH = 2, 96
TEXT_TARGETS, IMAGE_TARGETS = 30, 50


def real_batch() -> PackedBatch:
    """Rows with `TEXT_TARGETS` and `IMAGE_TARGETS` targets in all."""
    targets = np.full(ROWS * LENGTH, NO_TARGET)
    targets[:TEXT_TARGETS] = 1
    targets[LENGTH : LENGTH + IMAGE_TARGETS] = VOCABULARY.range_of(Modality.IMAGE).start
    rows = [
        CorruptedSequence(
            input_ids=np.zeros(LENGTH, dtype=np.int64),
            position_ids=np.tile(np.arange(LENGTH), (3, 1)),
            block=np.full(LENGTH, CAUSAL),
            stream=np.full(LENGTH, CLEAN),
            target=target,
            weight=(target != NO_TARGET).astype(np.float32),
            objective=np.where(target == NO_TARGET, -1, 0),
            modality=np.full(LENGTH, int(Modality.TEXT)),
        )
        for target in targets.reshape(ROWS, LENGTH)
    ]
    return pack([[row] for row in rows], LENGTH, pad_id=0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["qwen3_5_text", "llama"])
def test_traced_memory_and_work_are_those_of_the_real_step(family: str, checkpointing: bool) -> None:
    config = BACKBONE.model_copy(update={"family": family})
    targets = ((Modality.TEXT, TEXT_TARGETS), (Modality.IMAGE, IMAGE_TARGETS))
    traced = trace_micro_batch(config, VOCABULARY, "fp32", MicroBatch(ROWS, LENGTH, targets, True, checkpointing))

    backbone = Backbone(build_decoder(config, VOCABULARY, 0))
    backbone.decoder.set_attn_implementation(attention_implementation(torch.device("cpu")))
    backbone.decoder.train()
    if checkpointing:
        backbone.decoder.activation_checkpointing_enable({"use_reentrant": False})
    for parameter in backbone.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    batch = real_batch()
    with Watch(backbone.parameters()) as watch:
        loss_sums(backbone(batch), batch, VOCABULARY, 1).by_objective.sum().backward()

    assert traced.flops == sum(operation.flops * times for operation, times in watch.work.items())
    # The mask is built amid the real step, from comparisons of [rows, length, length].
    assert traced.peak_bytes == pytest.approx(watch.peak, rel=0.03)


def test_deep_decoder_is_told_from_shallow_ones() -> None:
    batch = MicroBatch(ROWS, LENGTH, ((Modality.TEXT, TEXT_TARGETS),), False, False)
    deep = BACKBONE.model_copy(update={"num_layers": 4})
    deeper = BACKBONE.model_copy(update={"num_layers": 7})
    told = trace_micro_batch(deeper, VOCABULARY, "bf16", batch)
    whole = trace._trace(deeper, VOCABULARY, "bf16", batch)
    assert told.flops == pytest.approx(whole.flops, rel=1e-9)
    assert told.peak_bytes == pytest.approx(whole.peak_bytes, rel=1e-3)
    assert trace_micro_batch(deep, VOCABULARY, "bf16", batch).peak_bytes < told.peak_bytes
