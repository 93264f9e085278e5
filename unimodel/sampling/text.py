"""Left-to-right text after a prompt, with the model's own text range (codes of other modalities are never words)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unimodel.backbone.model import Backbone
from unimodel.batch import TokenSequence
from unimodel.layout import NO_TARGET, Layout, Role, Span
from unimodel.sampling.fill import predict_hidden, read_only
from unimodel.tokenizers.unified import SequenceBuilder
from unimodel.vocabulary import Modality


def describe_images(
    backbone: Backbone, builder: SequenceBuilder, images: Sequence[np.ndarray], pad_id: int, max_tokens: int = 128
) -> list[np.ndarray]:
    """Greedy captions (text ids without bos and eos) of images given as codes [rows, columns]."""
    texts: list[list[int]] = [[] for _ in images]
    unfinished = list(range(len(images)))
    while unfinished and len(texts[unfinished[0]]) < max_tokens:
        prompts = [_prompt(builder, images[i], texts[i]) for i in unfinished]
        asked = []
        for prompt in prompts:
            target = np.full(len(prompt), NO_TARGET, dtype=np.int64)
            target[-1] = 0
            asked.append(replace(read_only(prompt), target=target))
        for i, logits in zip(list(unfinished), predict_hidden(backbone, asked, pad_id), strict=True):
            token = int(logits[0, : builder.vocabulary.text_size].argmax())
            if token == builder.eos_id:
                unfinished.remove(i)
            else:
                texts[i].append(token)
    return [np.asarray(text, dtype=np.int64) for text in texts]


def _prompt(builder: SequenceBuilder, codes: np.ndarray, text: list[int]) -> TokenSequence:
    """`image_to_text` without the eos that the model has yet to decide on."""
    full = builder.image_to_text(codes, np.asarray(text, dtype=np.int64), "prompt")
    kept = tuple(span for span in full.spans if span.stop < len(full))
    last = full.spans[-1]
    if text:
        kept = (*kept, Span(last.start, last.stop - 1, Modality.TEXT, Role.TARGET))
    return TokenSequence(full.key, full.ids[:-1], Layout(kept))
