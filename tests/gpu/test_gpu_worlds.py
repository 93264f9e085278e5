"""On a GPU: attention by blocks is dense attention, and every way to step a world is the window read again.

Run: pytest -m gpu tests/gpu/test_gpu_worlds.py
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from peers.recomputed_world import recompute_step
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, all_logits, tiny_backbone, toy_episode

from unimodel.backbone.attention import BLOCKS, DENSE
from unimodel.batch import PackedBatch, pack
from unimodel.sampling.fill import FillSettings, read_only
from unimodel.world.state import WorldState
from unimodel.world.worlds import Worlds

pytestmark = pytest.mark.gpu
WINDOW_FRAMES = 6


def world(seed: int, frames: int) -> WorldState:
    episode = toy_episode(seed, steps=frames)
    return WorldState(episode.mission, episode.frames[:frames], episode.actions[: frames - 1])


def packed() -> PackedBatch:
    windows = [read_only(BUILDER.interaction(toy_episode(seed), 0, 5)) for seed in range(4)]
    length = -(-2 * max(map(len, windows)) // 128) * 128
    return pack([windows[:2], windows[2:]], length, PAD_ID)


@pytest.mark.parametrize("family", ["qwen3_5_text", "qwen3", "llama"])
def test_blocks_give_what_dense_attention_gives(family: str) -> None:
    batch = packed()
    on_cpu = tiny_backbone(1, family)
    expected = all_logits(on_cpu, batch)[batch.document >= 0]
    blocks, dense = (
        all_logits(tiny_backbone(1, family, kind).cuda(), batch.to(torch.device("cuda"))) for kind in (BLOCKS, DENSE)
    )
    for logits in (blocks, dense):
        torch.testing.assert_close(logits.cpu()[batch.document >= 0], expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("passes", [1, 4])
@pytest.mark.parametrize("compiled_for", [0, 4])
def test_a_step_is_the_whole_window_read_again(compiled_for: int, passes: int) -> None:
    """Past several turns of the window, with worlds of other lengths beside it; one is closed and opened again."""
    backbone, fill = tiny_backbone(1, attention=BLOCKS).cuda(), FillSettings(steps=passes)
    worlds = Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES, fill, compiled_for=compiled_for)
    slots = [worlds.open(world(0, 1)), worlds.open(world(1, 4)), worlds.open(world(2, 9))]
    rng = np.random.default_rng(0)
    for number in range(3 * WINDOW_FRAMES):
        if number == WINDOW_FRAMES:
            worlds.close(slots[1])
            slots[1] = worlds.open(world(5, 2))
        windows = [
            worlds.state(slot).since(len(worlds.state(slot).frames) - worlds.window_frames(slot)) for slot in slots
        ]
        actions = rng.integers(VOCABULARY.action_size, size=3).tolist()
        frames = worlds.step(slots, actions)
        np.testing.assert_array_equal(frames, recompute_step(backbone, BUILDER, PAD_ID, windows, actions, fill))
        if number % 5 == 4:
            worlds.outcomes(slots)
    skipped = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
    assert skipped == 0, "compiled, but not as a CUDA graph"


def test_another_thread_may_step_compiled_worlds() -> None:
    """As the server of `unimodel play` does."""
    worlds = Worlds(tiny_backbone(1, attention=BLOCKS).cuda(), BUILDER, PAD_ID, WINDOW_FRAMES, compiled_for=2)
    with ThreadPoolExecutor(max_workers=1) as thread:
        slots = [thread.submit(worlds.open, world(seed, 2)).result() for seed in range(2)]
        for number in range(2 * WINDOW_FRAMES):
            some = slots[: 1 + number % 2]
            assert len(thread.submit(worlds.step, some, [1, 2][: len(some)]).result()) == len(some)
