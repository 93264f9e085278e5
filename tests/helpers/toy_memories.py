"""Tiny backbones with memories, one for every mechanism and one that composes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest
import torch
from toy_sequences import VOCABULARY, tiny_backbone

from unimodel.backbone.model import Backbone
from unimodel.config_memory import MemoryConfig
from unimodel.memory.build import build_memory
from unimodel.memory.memory import Memory
from unimodel.tokenizers.odometer import Odometer, OdometerShape
from unimodel.vocabulary import Modality

SIDE, STEPS, TOKENS = 4, 2, 128
WINDOW = {"kind": "window", "frames": 3}
RECURRENT = {"kind": "recurrent", "tokens": 3}
BY_PATCH = {"kind": "recurrent", "by": "patch"}
FASTWEIGHT = {"kind": "fastweight", "tokens": 3, "heads": 2, "head_dim": 8}
MOMENTUM = FASTWEIGHT | {"momentum": True}
COMPRESSED = {"kind": "compressed", "levels": [[1, 1], [2, 2], [2, 4]]}
EPISODIC = {"kind": "episodic", "capacity_frames": 6, "recalled_frames": 2, "key_dim": 8}
BY_POSE = {"kind": "episodic", "by": "pose", "capacity_frames": 6, "recalled_frames": 2}
COMPOSED = [WINDOW, RECURRENT, FASTWEIGHT, EPISODIC]
EACH = [[WINDOW], [RECURRENT], [BY_PATCH], [FASTWEIGHT], [MOMENTUM], [COMPRESSED], [EPISODIC], [BY_POSE], COMPOSED]
NAMES = ["window", "recurrent", "by_patch", "fastweight", "momentum", "compressed", "episodic", "by_pose", "composed"]
each_memory = pytest.mark.parametrize("mechanisms", EACH, ids=NAMES)


def remembering(
    mechanisms: Sequence[Mapping[str, object]], odometer: Odometer | None = None, side: int = SIDE, **settings: object
) -> Backbone:
    """A tiny backbone with a memory whose gates and keys do something; `odometer` is for pictures of `side` x `side`
    codes."""
    values = {"segment_frames": STEPS, "segment_tokens": TOKENS, "mechanisms": mechanisms} | settings
    config = MemoryConfig.model_validate_json(json.dumps(values))
    backbone = tiny_backbone()
    hidden_id = VOCABULARY.mask(Modality.IMAGE)
    odometer = odometer or toy_odometer(side)
    backbone.memory = build_memory(config, (side, side), 32, 0.1, 1, hidden_id, odometer)
    return backbone.eval()


def toy_odometer(side: int = SIDE) -> Odometer:
    """One that nobody has taught: what it says of a step follows from the step, and has no meaning."""
    images, actions = (VOCABULARY.range_of(each) for each in (Modality.IMAGE, Modality.ACTION))
    moves = [(1.0, 0.0, 0.0), (0.0, 0.0, torch.pi / 2), (0.0, 0.0, -torch.pi / 2), (0.0, 0.0, 0.0), (0.5, 0.5, 0.3)]
    shape = OdometerShape(
        num_codes=side * side,
        first_image_id=images.start,
        num_image_ids=len(images),
        first_action_id=actions.start,
        num_action_ids=len(actions),
        num_moves=len(moves),
    )
    with torch.random.fork_rng():
        torch.manual_seed(4)
        odometer = Odometer(shape)
    odometer.moves.copy_(torch.tensor(moves))
    return odometer.eval()


def memory_of(backbone: Backbone) -> Memory:
    assert isinstance(backbone.memory, Memory)
    return backbone.memory
