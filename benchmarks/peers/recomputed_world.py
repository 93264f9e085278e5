"""The next frame without a cache: every pass reads the whole window. What the cached step is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.sources.world import Action
from unimodel.backbone.model import Backbone
from unimodel.sampling.fill import FillSettings, fill_span
from unimodel.tokenizers.unified import SequenceBuilder, TokenisedEpisode
from unimodel.vocabulary import Modality
from unimodel.world.state import WorldState


def recompute_step(
    backbone: Backbone,
    builder: SequenceBuilder,
    pad_id: int,
    windows: Sequence[WorldState],
    actions: Sequence[Action],
    settings: FillSettings,
) -> np.ndarray:
    """int64 codes [worlds, rows, columns] of the frame that follows each window."""
    sequences = [_sequence(builder, window, action) for window, action in zip(windows, actions, strict=True)]
    spans = [sequence.layout.pictures[-1] for sequence in sequences]
    unknown = [np.isin(sequence.modality(), (Modality.REWARD, Modality.DONE)) for sequence in sequences]
    rng = np.random.default_rng(0)
    codes = fill_span(backbone, sequences, spans, builder.vocabulary, pad_id, settings, rng, unknown)
    return np.stack(codes).reshape(len(windows), *windows[0].frames.shape[1:])


def _sequence(builder: SequenceBuilder, window: WorldState, action: Action):
    """The window with one more frame, whose codes are a placeholder."""
    frames = np.concatenate([window.frames, window.frames[-1:]])
    actions = np.concatenate([window.actions, np.asarray(action)[None]])
    steps = len(actions)
    silence = np.zeros((steps + 1, 0), dtype=np.int64)
    unknown, events = np.zeros(steps), window.events
    episode = TokenisedEpisode("world", frames, silence, actions, unknown, unknown > 0, window.mission, (), events)
    return builder.interaction(episode, 0, steps + 1)
