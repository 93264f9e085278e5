"""Tokens per second of one training step, beside a hand-written loop over the same stock decoder.

Same weights, same rows, same targets, both AdamW; a small model in fp32 on a CPU, one of 300 million parameters in bf16
on a GPU (the peer by autocast). The peer does what tutorials do: logits at every place, the loss of
Hugging Face with -100 where nothing is asked, `clip_grad_norm_`, `optimizer.step()`. Steps alternate, so that a noisy
machine slows both; the ratio is of medians.

Run: python benchmarks/train_step.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from unimodel.backbone.attention import attention_implementation, attention_mask
from unimodel.backbone.flops import decoder_flops
from unimodel.backbone.model import Backbone, build_decoder
from unimodel.batch import CorruptedSequence, PackedBatch, pack
from unimodel.config import BackboneConfig, EngineConfig, MixtureEntry, StageConfig
from unimodel.config_objectives import NextTokenConfig
from unimodel.layout import CAUSAL, CLEAN, NO_TARGET
from unimodel.observe.devices import device_peak_tflops
from unimodel.training.engine import build_engine, start_process_group
from unimodel.training.named_state import NamedState
from unimodel.training.step import train_step
from unimodel.vocabulary import Modality, Vocabulary

ON_GPU = torch.cuda.is_available()
ROWS, LENGTH = (16, 2048) if ON_GPU else (4, 512)
TARGET_FRACTION, ROUNDS = 0.3, 15
VOCABULARY = Vocabulary(text_size=16_000, image_size=4_096, action_size=7, reward_size=11)
BACKBONE = (
    BackboneConfig(
        num_layers=22, hidden_size=1024, num_heads=16, num_key_value_heads=16, head_dim=64, intermediate_size=2816
    )
    if ON_GPU
    else BackboneConfig(
        num_layers=4, hidden_size=256, num_heads=4, num_key_value_heads=4, head_dim=64, intermediate_size=512
    )
)
ENGINE = EngineConfig(precision="bf16" if ON_GPU else "fp32")
STAGE = StageConfig(
    number=1,
    steps=1,
    mixture=(MixtureEntry(sequence="image_to_text", objective="text"),),
    objectives={"text": NextTokenConfig(kind="next_token")},
)


def batch_of_text(rng: np.random.Generator, device: torch.device) -> PackedBatch:
    """Full rows of random text, a target at about a third of the places."""
    rows = []
    for _ in range(ROWS):
        ids = rng.integers(VOCABULARY.text_size, size=LENGTH)
        target = np.where(rng.random(LENGTH) < TARGET_FRACTION, np.roll(ids, -1), NO_TARGET)
        rows.append(
            CorruptedSequence(
                input_ids=ids,
                position_ids=np.tile(np.arange(LENGTH), (3, 1)),
                block=np.full(LENGTH, CAUSAL),
                stream=np.full(LENGTH, CLEAN),
                target=target,
                weight=(target != NO_TARGET).astype(np.float32),
                objective=np.where(target == NO_TARGET, -1, 0),
                modality=np.full(LENGTH, int(Modality.TEXT)),
            )
        )
    return pack([[row] for row in rows], LENGTH, pad_id=0).to(device)


def our_step(device: torch.device) -> Callable[[PackedBatch], None]:
    """The project's step on DeepSpeed, moving average included."""
    engine = build_engine(Backbone(build_decoder(BACKBONE, VOCABULARY, 0)), ENGINE, STAGE, device)
    state = NamedState(engine, {})
    state.initialise(0, with_average=True)

    def step(batch: PackedBatch) -> None:
        train_step(engine, batch, STAGE, VOCABULARY)
        state.update_average(0.99)

    return step


def peer_step(device: torch.device) -> Callable[[PackedBatch], None]:
    """A plain loop; it may not skip what it does not know to skip."""
    decoder = build_decoder(BACKBONE, VOCABULARY, 0).to(device)  # pyright: ignore[reportArgumentType]
    name = attention_implementation(device)
    decoder.set_attn_implementation(name)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3)

    def step(batch: PackedBatch) -> None:
        labels = torch.roll(batch.target, 1, dims=1)  # Hugging Face shifts labels itself
        index = torch.arange(LENGTH, device=device).expand(ROWS, LENGTH)
        positions = torch.cat([index[None], batch.position_ids])
        with torch.autocast(device.type, torch.bfloat16, enabled=ON_GPU):
            output = decoder(
                input_ids=batch.input_ids,
                position_ids=positions,
                attention_mask={"full_attention": attention_mask(batch, name), "linear_attention": None},
                labels=labels,
            )
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    device = start_process_group(ENGINE)
    batch = batch_of_text(np.random.default_rng(0), device)
    steps = {"unimodel on DeepSpeed": our_step(device), "hand-written loop": peer_step(device)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(ROUNDS + 2):
        for name, step in steps.items():
            began = time.perf_counter()
            step(batch)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    targets = int((batch.target != NO_TARGET).sum())
    needed = decoder_flops(build_decoder(BACKBONE, VOCABULARY, 0), tokens=ROWS * LENGTH, length=LENGTH, targets=targets)
    peak = device_peak_tflops(device)
    for name, value in median.items():
        share = f"  {needed / value / peak / 1e12:.1%} of the peak" if peak else ""
        print(f"{name:24} {ROWS * LENGTH / value:8.0f} tokens/s  {value:.3f} s a step{share}")
    ours, theirs = median.values()
    print(f"ratio {theirs / ours:.2f} (above 1: ours is faster), median of {ROUNDS}, {device.type}")


if __name__ == "__main__":
    main()
