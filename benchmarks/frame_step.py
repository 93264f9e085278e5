"""Frames per second of the cached frame step, beside reading the whole window for every pass.

One world, a window of 64 frames. On one CPU core 6 million parameters in fp32 and 16 codes a frame (20 tokens with
action, delimiter, reward and done flag); on a GPU 300 million in bf16 and 64 codes, also compiled into CUDA graphs.
Weights are random: the work does not depend on them. The peer is the same decoder with the same window, without a
cache, as several small public world models step (jasmine, open-oasis). Its steps alternate with ours.

Run: python benchmarks/frame_step.py
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from peers.recomputed_world import recompute_step

from unimodel.backbone.attention import attention_implementation
from unimodel.backbone.model import Backbone, build_decoder
from unimodel.config import BackboneConfig
from unimodel.sampling.fill import FillSettings
from unimodel.tokenizers.unified import SequenceBuilder
from unimodel.vocabulary import Vocabulary
from unimodel.world.bench import time_steps
from unimodel.world.state import WorldState
from unimodel.world.worlds import Worlds

WINDOW_FRAMES, FRAMES, ROUNDS = 64, 64, 3
VOCABULARY = Vocabulary(text_size=512, image_size=512, action_size=7, reward_size=63)
BUILDER = SequenceBuilder(VOCABULARY, 1, 2)


@dataclass(frozen=True, slots=True)
class Case:
    """What one kind of device is measured with; frames have `side` x `side` codes."""

    backbone: BackboneConfig
    side: int
    dtype: torch.dtype
    compiled: tuple[bool, ...]


CPU = Case(
    BackboneConfig(
        num_layers=6,
        hidden_size=256,
        num_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        intermediate_size=768,
        rope_theta=100,
    ),
    side=4,
    dtype=torch.float32,
    compiled=(False, True),
)
GPU = Case(
    BackboneConfig(
        num_layers=22,
        hidden_size=1024,
        num_heads=16,
        num_key_value_heads=16,
        head_dim=64,
        intermediate_size=2816,
        rope_theta=100,
    ),
    side=8,
    dtype=torch.bfloat16,
    compiled=(False, True),
)


def full_window(rng: np.random.Generator, side: int) -> WorldState:
    """A world whose next frame is the last that its window holds."""
    frames = rng.integers(VOCABULARY.image_size, size=(WINDOW_FRAMES - 1, side, side))
    return WorldState(np.arange(5, 11), frames, rng.integers(VOCABULARY.action_size, size=WINDOW_FRAMES - 2))


def measure(backbone: Backbone, case: Case, passes: int, compiled: bool) -> str:
    """A line of the table."""
    rng = np.random.default_rng(0)
    settings = FillSettings(steps=passes)
    rates, slowest, ratios = [], [], []
    worlds = Worlds(backbone, BUILDER, 0, WINDOW_FRAMES, settings, compiled_for=int(compiled))
    for _ in range(ROUNDS + compiled):  # a round more, which compiles
        slot = worlds.open(full_window(rng, case.side))
        # From a full window on: a whole turn of it, the shortest and the longest, and one reading again.
        times = time_steps(worlds, [slot], VOCABULARY.action_size, FRAMES, passes)
        worlds.close(slot)
        start = time.perf_counter()
        recompute_step(backbone, BUILDER, 0, [full_window(rng, case.side)], [0], settings)
        ratios.append((time.perf_counter() - start) / times.mean_seconds)
        rates.append(1 / times.mean_seconds)
        slowest.append(1000 * times.percentile(100))
    return (
        f"{passes} pass{'es' if passes > 1 else '  '} {'compiled' if compiled else '':8} "
        f"{statistics.median(rates[-ROUNDS:]):6.1f} frames/s  "
        f"slowest frame {statistics.median(slowest[-ROUNDS:]):4.0f} ms  "
        f"{statistics.median(ratios[-ROUNDS:]):5.1f} times as fast as reading the window for every pass"
    )


def main() -> None:
    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
    device, case = (torch.device("cuda"), GPU) if on_gpu else (torch.device("cpu"), CPU)
    decoder = build_decoder(case.backbone, VOCABULARY, seed=0)
    decoder.set_attn_implementation(attention_implementation(device))
    backbone = Backbone(decoder).to(device, case.dtype).eval()
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    print(
        f"{parameters / 1e6:.1f} million parameters, {WINDOW_FRAMES} frames, {case.side**2} codes each, "
        f"{torch.cuda.get_device_name() if on_gpu else 'one CPU core'}"
    )
    for compiled in case.compiled:
        for passes in (1, 4):
            print(measure(backbone, case, passes, compiled), flush=True)


if __name__ == "__main__":
    main()
