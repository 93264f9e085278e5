"""What a model answers at hidden tokens of held-out sequences, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from unimodel.batch import NO_TARGET, CorruptedSequence, TokenSequence
from unimodel.config import MixtureEntry
from unimodel.sampling.fill import hide, predict_hidden, read_only
from unimodel.tokenizers.unified import SequenceBuilder, TokenisedEpisode
from unimodel.training.loaded_run import LoadedRun
from unimodel.vocabulary import Modality, Vocabulary
from unimodel.world.window import OUTCOMES

ROWS_AT_ONCE = 32


def predict(loaded: LoadedRun, asked: Sequence[CorruptedSequence]) -> Iterator[torch.Tensor]:
    """For every sequence, logits [its targets, vocabulary]. The whole of them would be large: use and forget."""
    for start in range(0, len(asked), ROWS_AT_ONCE):
        yield from predict_hidden(loaded.backbone, asked[start : start + ROWS_AT_ONCE], loaded.bundle.pad_id)


def image_nats(loaded: LoadedRun, asked: Sequence[CorruptedSequence], answers: Sequence[np.ndarray]) -> np.ndarray:
    """float64 [sequences]: the summed cross entropy of the image ids `answers` behind the masks of every sequence."""
    image = loaded.bundle.vocabulary.range_of(Modality.IMAGE)
    nats = np.zeros(len(asked))
    for number, (logits, ids) in enumerate(zip(predict(loaded, asked), answers, strict=True)):
        log_probabilities = logits[:, image.start : image.stop].log_softmax(dim=-1)
        nats[number] = -float(log_probabilities[torch.arange(len(ids)), torch.from_numpy(ids - image.start)].sum())
    return nats


def best_ids(logits: torch.Tensor, modality: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """The most likely id of every row within its own modality's range."""
    best = np.zeros(len(modality), dtype=np.int64)
    for kind in np.unique(modality):
        ids = vocabulary.range_of(Modality(kind))
        here = modality == kind
        best[here] = logits[torch.from_numpy(here)][:, ids.start : ids.stop].argmax(dim=-1).numpy() + ids.start
    return best


def window(
    builder: SequenceBuilder, episode: TokenisedEpisode, start: int, frames: int, *, has_sink: bool
) -> TokenSequence:
    """Up to `frames` frames from `start` on, laid out as the live world lays them out: without sound."""
    silence = np.zeros((episode.num_frames, 0), dtype=np.int64)
    return builder.interaction(replace(episode, audio=silence), start, frames, has_sink=has_sink)


def world_entry(loaded: LoadedRun) -> MixtureEntry:
    """What the stage was taught to step worlds with: the frames of its windows, and whether they have a sink."""
    entry = loaded.config.stages[loaded.stage].world
    assert entry is not None, f"stage {loaded.stage} was not trained on interaction"
    return entry


def ask(sequence: TokenSequence, hidden: np.ndarray, vocabulary: Vocabulary) -> CorruptedSequence:
    """The window with `hidden` (bool [n]) behind MASK and asked for. Rewards and ends are behind MASK as well, as they
    are in the live world, so that they tell nothing."""
    outcomes = np.isin(sequence.modality(), OUTCOMES)
    asked = hide(read_only(sequence), hidden | outcomes, vocabulary)
    return replace(asked, target=np.where(hidden, asked.target, NO_TARGET))
