"""Frames per second of the cached frame step, beside reading the whole window for every pass.

6 million parameters, 16 codes a frame (20 tokens with action, delimiter, reward and done flag), a window of 64 frames,
one world, one core. Weights are random: the work does not depend on them. The peer is the same decoder with the same
window, without a cache, as several small public world models step (jasmine, open-oasis). Its steps alternate with ours.

Run: python benchmarks/frame_step.py
"""

from __future__ import annotations

import statistics
import time

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

WINDOW_FRAMES, SIDE, FRAMES, ROUNDS = 64, 4, 64, 3
VOCABULARY = Vocabulary(text_size=512, image_size=512, action_size=7, reward_size=63)
BUILDER = SequenceBuilder(VOCABULARY, 1, 2)
BACKBONE = BackboneConfig(
    num_layers=6,
    hidden_size=256,
    num_heads=4,
    num_key_value_heads=4,
    head_dim=64,
    intermediate_size=768,
    rope_theta=100,
)


def full_window(rng: np.random.Generator) -> WorldState:
    """A world whose next frame is the last that its window holds."""
    frames = rng.integers(VOCABULARY.image_size, size=(WINDOW_FRAMES - 1, SIDE, SIDE))
    return WorldState(np.arange(5, 11), frames, rng.integers(VOCABULARY.action_size, size=WINDOW_FRAMES - 2))


def main() -> None:
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    decoder = build_decoder(BACKBONE, VOCABULARY, seed=0)
    decoder.set_attn_implementation(attention_implementation(device))
    backbone = Backbone(decoder).to(device).eval()
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    print(f"{parameters / 1e6:.1f} million parameters, {WINDOW_FRAMES} frames, {SIDE * SIDE} codes each, {device.type}")
    rng = np.random.default_rng(0)
    for passes in (1, 4):
        settings = FillSettings(steps=passes)
        rates, slowest, ratios = [], [], []
        for _ in range(ROUNDS):
            worlds = Worlds(backbone, BUILDER, 0, WINDOW_FRAMES, settings)
            # From a full window on: a whole turn of it, the shortest and the longest, and one reading again.
            times = time_steps(worlds, [worlds.open(full_window(rng))], VOCABULARY.action_size, FRAMES, passes)
            start = time.perf_counter()
            recompute_step(backbone, BUILDER, 0, [full_window(rng)], [0], settings)
            ratios.append((time.perf_counter() - start) / times.mean_seconds)
            rates.append(1 / times.mean_seconds)
            slowest.append(1000 * times.percentile(100))
        print(
            f"{passes} pass{'es' if passes > 1 else '  '}  {statistics.median(rates):5.1f} frames/s  "
            f"slowest frame {statistics.median(slowest):4.0f} ms  "
            f"{statistics.median(ratios):4.1f} times as fast as reading the window for every pass"
        )


if __name__ == "__main__":
    main()
