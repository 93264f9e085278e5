"""What a step of a live world costs at its 100th and at its 10,000th step, with every memory, and its bytes.

Weights are random: the work does not depend on them. A small decoder (0.2 million parameters, 16 codes a frame,
segments of 4 steps, one pass a frame), so that little hides what a memory and the past of a world cost. Of each memory
one world has a past of 10,000 steps, all of which it has read segment by segment, and another one of 100; both go on in
turns, a block of whole segments each. Given are medians over the blocks, in processor time, which a busy machine
disturbs less, and how many times as long the old world's blocks took as the young one's beside them. Bytes are of the
memory's state and of the keys and values of the window.

Run: python benchmarks/memory_step.py [STEPS]    (default 10000)
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

from unimodel.backbone.model import Backbone, build_decoder
from unimodel.config import BackboneConfig
from unimodel.config_memory import MemoryConfig
from unimodel.memory.build import build_memory
from unimodel.memory.state import num_bytes
from unimodel.sampling.fill import FillSettings
from unimodel.tokenizers.action import REWARD_BINS
from unimodel.tokenizers.unified import SequenceBuilder
from unimodel.vocabulary import Vocabulary
from unimodel.world.state import WorldState
from unimodel.world.worlds import Worlds

YOUNG_STEPS, OLD_STEPS = 100, 10_000
BLOCKS, BLOCK_STEPS, SEGMENT_FRAMES, SIDE = 9, 40, 4, 4
VOCABULARY = Vocabulary(text_size=64, image_size=512, action_size=7, reward_size=REWARD_BINS, done_size=2)
BACKBONE = BackboneConfig(
    num_layers=2, hidden_size=64, num_heads=4, num_key_value_heads=4, head_dim=16, intermediate_size=128, rope_theta=100
)
MEMORIES: dict[str, list[dict[str, object]]] = {
    "none": [],
    "window": [{"kind": "window", "frames": 8}],
    "compressed": [{"kind": "compressed"}],
    "recurrent": [{"kind": "recurrent"}],
    "fastweight": [{"kind": "fastweight"}],
    "fastweight, momentum": [{"kind": "fastweight", "momentum": True}],
    "episodic": [{"kind": "episodic"}],
}


@dataclass(frozen=True, slots=True)
class Life:
    """A world that goes on."""

    worlds: Worlds
    slot: int

    def live(self, steps: int) -> float:
        """So many steps more; milliseconds of processor for each."""
        actions = np.random.default_rng(steps).integers(VOCABULARY.action_size, size=steps).tolist()
        start = time.process_time()
        for action in actions:
            self.worlds.step([self.slot], [action])
        return 1000 * (time.process_time() - start) / steps


def grown(mechanisms: list[dict[str, object]], steps: int) -> Life:
    """A world that has lived so many steps."""
    values = {"segment_frames": SEGMENT_FRAMES, "segment_tokens": 128, "mechanisms": mechanisms}
    config = MemoryConfig.model_validate_json(json.dumps(values))
    backbone = Backbone(build_decoder(BACKBONE, VOCABULARY, seed=0))
    backbone.memory = build_memory(config, (SIDE, SIDE), BACKBONE.hidden_size, BACKBONE.initializer_range, seed=0)
    builder = SequenceBuilder(VOCABULARY, 1, 2)
    worlds = Worlds(backbone.eval(), builder, 0, SEGMENT_FRAMES + 1, FillSettings(steps=1))
    rng = np.random.default_rng(0)
    frames = rng.integers(VOCABULARY.image_size, size=(steps + 1, SIDE, SIDE))
    past = WorldState(np.arange(5, 11), frames, rng.integers(VOCABULARY.action_size, size=steps))
    life = Life(worlds, worlds.open(past))
    life.live(BLOCK_STEPS)  # of which the first takes its past into its own arrays
    return life


def measure(mechanisms: list[dict[str, object]], old_steps: int) -> str:
    """What stands behind the name in the table."""
    old, young = grown(mechanisms, old_steps), grown(mechanisms, YOUNG_STEPS)
    times: dict[Life, list[float]] = {young: [], old: []}
    for block in range(BLOCKS):
        for life in (young, old) if block % 2 else (old, young):
            times[life].append(life.live(BLOCK_STEPS))
    early, late = (statistics.median(times[life]) for life in (young, old))
    ratio = statistics.median(late / early for early, late in zip(times[young], times[old], strict=True))
    memory = old.worlds.memory(old.slot)
    state = num_bytes(memory) if memory is not None else 0
    return (
        f"{early:6.2f} ms at step {YOUNG_STEPS}  {late:6.2f} ms at step {old_steps:,}  ratio {ratio:4.2f}  "
        f"state {state:9,} bytes  window {old.worlds.cache_bytes:9,} bytes"
    )


def main() -> None:
    torch.set_num_threads(1)
    old_steps = int(sys.argv[1]) if len(sys.argv) > 1 else OLD_STEPS
    for name, mechanisms in MEMORIES.items():
        print(f"{name:22} {measure(mechanisms, old_steps)}", flush=True)


if __name__ == "__main__":
    main()
