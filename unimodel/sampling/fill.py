"""Parallel decoding of a masked span in a few steps (MaskGIT, arXiv 2202.04200, section 3.2).

Each step predicts all hidden tokens, keeps the surest and hides the rest again, along the cosine schedule. One span per
sequence, many sequences at once; everything else of a sequence is context.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from unimodel.backbone.model import Backbone
from unimodel.batch import CorruptedSequence, TokenSequence, pack
from unimodel.layout import NO_TARGET, Role, Span
from unimodel.objectives.masked import mask_ids
from unimodel.vocabulary import Modality, Vocabulary


@dataclass(frozen=True, slots=True)
class FillSettings:
    """How a span is filled."""

    steps: int = 4
    temperature: float = 0.0
    """0 takes the most likely token; 1 samples from the model."""
    choice_temperature: float = 0.0
    """Gumbel noise on the confidence, falling to 0 over the steps; with sampling, about 4.5 keeps variety."""
    guidance: float = 1.0
    """Scale s of classifier-free guidance u + s (c - u); 1 turns it off."""


def read_only(sequence: TokenSequence) -> CorruptedSequence:
    """A sequence as plain context: images are blocks, the rest is causal, nothing is a target."""
    nothing = np.full(len(sequence), NO_TARGET, dtype=np.int64)
    return CorruptedSequence(
        input_ids=sequence.ids,
        position_ids=sequence.position_ids(),
        block=sequence.layout.blocks,
        stream=sequence.layout.streams,
        target=nothing,
        weight=np.zeros(len(sequence), dtype=np.float32),
        objective=np.full(len(sequence), -1, dtype=np.int64),
        modality=sequence.modality(),
    )


def hide(corrupted: CorruptedSequence, hidden: np.ndarray, vocabulary: Vocabulary) -> CorruptedSequence:
    """Puts MASK at the places `hidden` (bool [n]) and asks for logits there."""
    input_ids = np.where(hidden, mask_ids(corrupted.modality, vocabulary), corrupted.input_ids)
    return replace(corrupted, input_ids=input_ids, target=np.where(hidden, 0, NO_TARGET))


@torch.no_grad()
def predict_hidden(backbone: Backbone, corrupted: Sequence[CorruptedSequence], pad_id: int) -> list[torch.Tensor]:
    """For every sequence, logits [its targets, vocabulary]; one sequence per row, before which there was nothing.

    Raises ValueError for one that is longer than a segment, where there is a memory.
    """
    longest, segment_tokens = max(len(c) for c in corrupted), backbone.segment_tokens
    if segment_tokens is not None and longest > segment_tokens:
        raise ValueError(f"a sequence of {longest} tokens is longer than a segment of the memory ({segment_tokens})")
    length = segment_tokens or -(-longest // 8) * 8
    batch = pack([[c] for c in corrupted], length, pad_id).to(next(backbone.parameters()).device)
    logits = backbone(batch).float().cpu()
    return list(logits.split([int((c.target != NO_TARGET).sum()) for c in corrupted]))


def fill_span(
    backbone: Backbone,
    sequences: Sequence[TokenSequence],
    spans: Sequence[Span],
    vocabulary: Vocabulary,
    pad_id: int,
    settings: FillSettings,
    rng: np.random.Generator,
    hidden_context: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Codes [len(span)] for one span of every sequence; what the sequences hold there is ignored.

    `hidden_context` marks (bool [n]) further tokens that stay behind MASK, such as unknown rewards.
    """
    contexts = [read_only(sequence) for sequence in sequences]
    if hidden_context is not None:
        contexts = [
            replace(context, input_ids=np.where(extra, mask_ids(context.modality, vocabulary), context.input_ids))
            for context, extra in zip(contexts, hidden_context, strict=True)
        ]
    ids = [context.input_ids.copy() for context in contexts]
    open_places = [np.ones(len(span), dtype=bool) for span in spans]
    for step in range(settings.steps):
        asked = []
        for context, current, span, opened in zip(contexts, ids, spans, open_places, strict=True):
            hidden = np.zeros(len(current), dtype=bool)
            hidden[span.start : span.stop] = opened
            asked.append(hide(replace(context, input_ids=current), hidden, vocabulary))
        predictions = _predict(backbone, sequences, asked, vocabulary, pad_id, settings.guidance)
        left = math.cos(math.pi / 2 * (step + 1) / settings.steps)
        for current, span, opened, logits in zip(ids, spans, open_places, predictions, strict=True):
            target = vocabulary.range_of(span.modality)
            chosen, confidence = _choose(logits[:, target.start : target.stop], settings, step, rng)
            current[np.arange(span.start, span.stop)[opened]] = chosen + target.start
            still_open = math.floor(left * len(span)) if step + 1 < settings.steps else 0
            opened[:] = _least_sure(opened, confidence, still_open)
    return [
        vocabulary.codes(span.modality, current[span.start : span.stop])
        for current, span in zip(ids, spans, strict=True)
    ]


def _predict(
    backbone: Backbone,
    sequences: Sequence[TokenSequence],
    asked: list[CorruptedSequence],
    vocabulary: Vocabulary,
    pad_id: int,
    guidance: float,
) -> list[torch.Tensor]:
    conditional = predict_hidden(backbone, asked, pad_id)
    if guidance == 1.0:
        return conditional
    unconditional = predict_hidden(
        backbone, [_without_prompt(s, c, vocabulary) for s, c in zip(sequences, asked, strict=True)], pad_id
    )
    return [u + guidance * (c - u) for c, u in zip(conditional, unconditional, strict=True)]


def _without_prompt(sequence: TokenSequence, corrupted: CorruptedSequence, vocabulary: Vocabulary) -> CorruptedSequence:
    """Hides the CONDITION text, exactly as condition dropout does in training."""
    prompt = (sequence.role() == Role.CONDITION) & (sequence.modality() == Modality.TEXT)
    return replace(corrupted, input_ids=np.where(prompt, vocabulary.mask(Modality.TEXT), corrupted.input_ids))


def _choose(
    logits: torch.Tensor, settings: FillSettings, step: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A code and its confidence for every row of `logits`. Gumbel noise in float64: float32 cuts its tail and acts as
    a lower temperature (arXiv 2409.02908)."""
    log_probabilities = logits.double().log_softmax(dim=-1).numpy()
    scores = log_probabilities
    if settings.temperature > 0:
        scores = log_probabilities / settings.temperature + rng.gumbel(size=log_probabilities.shape)
    chosen = scores.argmax(axis=-1)
    confidence = log_probabilities[np.arange(len(chosen)), chosen]
    falling = settings.choice_temperature * (1 - (step + 1) / settings.steps)
    return chosen, confidence + falling * rng.gumbel(size=confidence.shape)


def _least_sure(opened: np.ndarray, confidence: np.ndarray, count: int) -> np.ndarray:
    """bool: the `count` places of `opened` with the lowest confidence."""
    places = np.flatnonzero(opened)
    result = np.zeros_like(opened)
    result[places[np.argsort(confidence, kind="stable")[: min(count, len(places))]]] = True
    return result
