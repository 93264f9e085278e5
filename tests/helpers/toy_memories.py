"""Tiny backbones with memories, one for every mechanism and one that composes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest
from toy_sequences import tiny_backbone

from unimodel.backbone.model import Backbone
from unimodel.config_memory import MemoryConfig
from unimodel.memory.build import build_memory
from unimodel.memory.memory import Memory

SIDE, STEPS, TOKENS = 4, 2, 128
WINDOW = {"kind": "window", "frames": 3}
RECURRENT = {"kind": "recurrent", "tokens": 3}
FASTWEIGHT = {"kind": "fastweight", "tokens": 3, "heads": 2, "head_dim": 8}
MOMENTUM = FASTWEIGHT | {"momentum": True}
COMPRESSED = {"kind": "compressed", "levels": [[1, 1], [2, 2], [2, 4]]}
EPISODIC = {"kind": "episodic", "capacity_frames": 6, "recalled_frames": 2, "key_dim": 8}
COMPOSED = [WINDOW, RECURRENT, FASTWEIGHT, EPISODIC]
EACH = [[WINDOW], [RECURRENT], [FASTWEIGHT], [MOMENTUM], [COMPRESSED], [EPISODIC], COMPOSED]
NAMES = ["window", "recurrent", "fastweight", "momentum", "compressed", "episodic", "composed"]
each_memory = pytest.mark.parametrize("mechanisms", EACH, ids=NAMES)


def remembering(mechanisms: Sequence[Mapping[str, object]], **settings: object) -> Backbone:
    """A tiny backbone with a memory whose gates and keys do something."""
    values = {"segment_frames": STEPS, "segment_tokens": TOKENS, "mechanisms": mechanisms} | settings
    config = MemoryConfig.model_validate_json(json.dumps(values))
    backbone = tiny_backbone()
    backbone.memory = build_memory(config, (SIDE, SIDE), 32, 0.1, seed=1)
    return backbone.eval()


def memory_of(backbone: Backbone) -> Memory:
    assert isinstance(backbone.memory, Memory)
    return backbone.memory
