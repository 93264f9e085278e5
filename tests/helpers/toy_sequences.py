"""Tiny vocabularies, sequences and backbones that many tests start from; nothing here is drawn without a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from data_pipelines.sources.sample import UNKNOWN_ACTION
from unimodel.backbone.attention import DENSE
from unimodel.backbone.model import Backbone, build_decoder
from unimodel.batch import CorruptedSequence, PackedBatch
from unimodel.config import BackboneConfig
from unimodel.layout import CLEAN, NO_TARGET
from unimodel.tokenizers.action import REWARD_BINS
from unimodel.tokenizers.unified import SequenceBuilder, TokenisedEpisode
from unimodel.vocabulary import Modality, Vocabulary

PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
VOCABULARY = Vocabulary(text_size=30, image_size=24, audio_size=12, action_size=5, reward_size=REWARD_BINS, done_size=2)
BUILDER = SequenceBuilder(VOCABULARY, BOS_ID, EOS_ID)
TINY_BACKBONE = BackboneConfig(
    num_layers=2, hidden_size=32, num_heads=2, num_key_value_heads=2, head_dim=16, intermediate_size=64
)


def tiny_backbone(seed: int = 0, family: str = "qwen3_5_text", attention: str = DENSE) -> Backbone:
    """Two real layers; weights widened, so that what is visible also shows in the logits."""
    decoder = build_decoder(TINY_BACKBONE.model_copy(update={"family": family}), VOCABULARY, seed)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(5.0)
    decoder.set_attn_implementation(attention)
    return Backbone(decoder).eval()


@torch.no_grad()
def all_logits(backbone: Backbone, batch: PackedBatch) -> Tensor:
    """[rows, length, vocabulary] logits at every place."""
    return backbone.decoder.lm_head(backbone.hidden(batch))


def toy_episode(seed: int = 0, steps: int = 4, side: int = 3, key: str = "episode") -> TokenisedEpisode:
    """An episode of random codes [steps + 1, side, side]; a third of a frame's codes change from frame to frame."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(VOCABULARY.image_size, size=(steps + 1, side, side))
    for before, now in zip(frames, frames[1:], strict=False):
        same = rng.random((side, side)) < 2 / 3
        now[same] = before[same]
    return TokenisedEpisode(
        key=key,
        frames=frames,
        audio=np.zeros((steps + 1, 0), dtype=np.int64),
        actions=rng.integers(VOCABULARY.action_size, size=steps),
        rewards=rng.choice([0.0, 0.5, 1.0], size=steps),
        done=rng.random(steps) < 0.3,
        mission=rng.integers(3, VOCABULARY.text_size, size=5),
        captions=tuple(rng.integers(3, VOCABULARY.text_size, size=4 + number) for number in range(steps + 1)),
    )


def toy_talkie(seed: int = 0, steps: int = 4, side: int = 3, codes: int = 4) -> TokenisedEpisode:
    """The same with sound: random codes [steps + 1, codes]."""
    rng = np.random.default_rng(seed)
    return replace(toy_episode(seed, steps, side), audio=rng.integers(VOCABULARY.audio_size, size=(steps + 1, codes)))


def toy_film(seed: int = 0, steps: int = 4) -> TokenisedEpisode:
    """A talkie whose actions and rewards nobody knows, with one caption for all of it."""
    talkie = toy_talkie(seed, steps)
    return replace(
        talkie,
        actions=np.full(steps, UNKNOWN_ACTION),
        rewards=np.full(steps, np.nan),
        captions=talkie.captions[:1],
    )


def toy_eventful(seed: int = 0, steps: int = 6) -> TokenisedEpisode:
    """The same as `toy_episode`, with events at steps 1, 3 (two of them) and the last."""
    rng = np.random.default_rng(seed)
    at = enumerate((1, 3, 3, steps - 1))
    events = tuple((step, rng.integers(3, VOCABULARY.text_size, size=2 + number)) for number, step in at)
    return replace(toy_episode(seed, steps), events=events)


def toy_society(seed: int = 0, steps: int = 4, agents: int = 2, side: int = 3) -> TokenisedEpisode:
    """The same as `toy_episode` with actions of several agents, each absent now and then."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(VOCABULARY.action_size, size=(steps, agents))
    actions[rng.random((steps, agents)) < 0.2] = UNKNOWN_ACTION
    return replace(toy_episode(seed, steps, side), actions=actions)


def laid_out(
    ids: np.ndarray, block: np.ndarray, stream: np.ndarray | None = None, target: np.ndarray | None = None
) -> CorruptedSequence:
    """A sequence of text tokens with the given visibility, as an objective would hand it to packing."""
    length = len(ids)
    target = np.full(length, NO_TARGET) if target is None else target
    return CorruptedSequence(
        input_ids=np.asarray(ids, dtype=np.int64),
        position_ids=np.tile(np.arange(length, dtype=np.int64), (3, 1)),
        block=np.asarray(block, dtype=np.int64),
        stream=np.full(length, CLEAN, dtype=np.int64) if stream is None else np.asarray(stream, dtype=np.int64),
        target=target,
        weight=(target != NO_TARGET).astype(np.float32),
        objective=np.where(target == NO_TARGET, -1, 0),
        modality=np.full(length, int(Modality.TEXT), dtype=np.int64),
    )
