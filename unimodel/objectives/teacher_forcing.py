"""Teacher-forced frames in two streams: every frame is asked for in a noisy copy that sees the clean past and itself.

    first frame | noisy 1 | frame 1 | outcome 1 | noisy 2 | frame 2 | outcome 2 ...

A noisy copy is a whole block, its action included, at the positions of its clean copy; nothing else reads it. So every
frame of a window is predicted in one pass, each from exactly what it is sampled from: the clean frames before it (block
diffusion, Arriola et al. 2025, arXiv 2503.09573). Diffusion forcing gets by on half of the tokens, but its past is
masked as often as not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from unimodel.batch import CorruptedSequence, TokenSequence
from unimodel.config_objectives import TeacherForcingConfig
from unimodel.layout import KNOWN_LAYOUTS, NO_TARGET, Layout, Role
from unimodel.objectives.diffusion_forcing import (
    add_context_noise,
    drop_actions,
    exact_share,
    frame_mask_rate,
    hide_outcomes,
    outcome_weights,
)
from unimodel.objectives.masked import change_weights, mask_ids
from unimodel.vocabulary import Modality, Vocabulary


def corrupt_copies(
    sequence: TokenSequence,
    vocabulary: Vocabulary,
    config: TeacherForcingConfig,
    index: int,
    rng: np.random.Generator,
) -> CorruptedSequence:
    """Puts a copy in front of every TARGET frame of an episode window and masks a share of it. Outcomes are hidden and
    asked for as in diffusion forcing, after the clean frame that they came with."""
    copies = lay_copies(sequence.layout)
    modality, ids = sequence.modality()[copies.source], sequence.ids[copies.source]
    input_ids, hidden = ids.copy(), np.zeros(len(ids), dtype=bool)
    noise = rng.random() * config.context_noise_fraction
    for observed in (Modality.IMAGE, Modality.AUDIO):
        places = np.flatnonzero(modality == observed)
        add_context_noise(input_ids, places, observed, vocabulary, noise, rng)
    for moment in copies.moments:
        rate = frame_mask_rate(0.0, config.full_fraction, rng)
        for places in moment:
            hidden[places] = exact_share(places.stop - places.start, rate, rng)
    hidden |= hide_outcomes(sequence.layout, rng)[copies.source]
    input_ids[hidden] = mask_ids(modality[hidden], vocabulary)
    drop_actions(input_ids, modality, vocabulary, config.action_dropout_fraction, rng)
    weights = change_weights(sequence, config.changed_weight)
    weights = weights * outcome_weights(sequence, vocabulary, config.outcome_weight, config.rare_outcome_weight)
    return CorruptedSequence(
        input_ids=input_ids,
        position_ids=sequence.position_ids()[:, copies.source],
        block=copies.block,
        stream=copies.stream,
        target=np.where(hidden, ids, NO_TARGET),
        weight=hidden * weights[copies.source],
        objective=np.where(hidden, index, -1),
        modality=modality,
    )


@dataclass(frozen=True, slots=True)
class Copies:
    """A layout of n tokens with its noisy copies, m tokens in all."""

    source: np.ndarray
    """[m] the place in the layout that each token is from."""
    block: np.ndarray
    """[m]"""
    stream: np.ndarray
    """[m] each copy has its own."""
    moments: tuple[tuple[slice, ...], ...]
    """The picture, the sound, or both, of every noisy copy."""


@lru_cache(maxsize=KNOWN_LAYOUTS)
def lay_copies(layout: Layout) -> Copies:
    """Where the noisy copies of a layout's TARGET frames stand."""
    asked = sorted({int(layout.blocks[span.start]) for span in layout.observed if span.role is Role.TARGET})
    source: list[np.ndarray] = []
    block: list[np.ndarray] = []
    stream: list[np.ndarray] = []
    blocks, streams = int(layout.blocks.max(initial=-1)) + 1, int(layout.streams.max(initial=0)) + 1
    moments, done, length = [], 0, 0
    for number, name in enumerate(asked):
        members = np.flatnonzero(layout.blocks == name)
        start, stop = int(members[0]), int(members[-1]) + 1
        source += [np.arange(done, start), np.arange(start, stop)]
        block += [layout.blocks[done:start], np.full(stop - start, blocks + number)]
        stream += [layout.streams[done:start], np.full(stop - start, streams + number)]
        moved = length - done
        observed = (span for span in layout.observed if start <= span.start < stop)
        moments.append(tuple(slice(span.start + moved, span.stop + moved) for span in observed))
        length, done = length + stop - done, start
    source.append(np.arange(done, layout.length))
    block.append(layout.blocks[done:])
    stream.append(layout.streams[done:])
    return Copies(np.concatenate(source), np.concatenate(block), np.concatenate(stream), tuple(moments))
