"""The held-out episodes with their codes, and what a guess that knows only token frequencies would score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.storage import join
from data_pipelines.sources.episode import UNKNOWN_ACTION, Episode
from unimodel.config import EPISODES, RunConfig
from unimodel.run_folder import RunFolder
from unimodel.tokenizers.prepare import read_episodes
from unimodel.tokenizers.tokenised_shards import decode_tokenised
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.vocabulary import Modality, Vocabulary

UNIGRAM_EPISODES = 500

Split = Literal["validation", "test"]
"""validation to choose settings by, test for figures to tell."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Pictures and codes of the same episodes, and the most frequent training token per modality."""

    episodes: list[Episode]
    tokens: list[TokenisedEpisode]
    most_frequent: dict[Modality, int]
    """Modality -> id; none of actions where nobody knows them."""


def load_held_out(
    config: RunConfig, run: RunFolder, split: Split, vocabulary: Vocabulary, eos_id: int, source: str = EPISODES
) -> HeldOut:
    """Of the recorded episodes, or of another source of them. Raises FileNotFoundError when shards or their codes are
    missing."""
    count = config.evaluation.episodes
    folder = config.data.folder if source == EPISODES else config.data.sources[source].folder
    episodes = list(read_episodes(join(folder, split), count))
    reader = ShardReader(run.tokens_of(source, split))
    tokens = [decode_tokenised(*reader.read(i)) for i in range(min(count, len(reader)))]
    train = ShardReader(run.tokens_of(source, "train"))
    some = [decode_tokenised(*train.read(i)) for i in range(min(UNIGRAM_EPISODES, len(train)))]
    return HeldOut(episodes, tokens, _most_frequent(some, vocabulary, eos_id))


def _most_frequent(episodes: list[TokenisedEpisode], vocabulary: Vocabulary, eos_id: int) -> dict[Modality, int]:
    captions = [caption for episode in episodes for caption in episode.captions]
    text = np.concatenate([*captions, np.full(len(captions), eos_id)])
    image = np.concatenate([episode.frames.ravel() for episode in episodes])
    actions = np.concatenate([episode.actions.ravel() for episode in episodes])
    known = actions[actions != UNKNOWN_ACTION]
    most_frequent = {
        Modality.TEXT: int(np.bincount(text).argmax()),
        Modality.IMAGE: int(np.bincount(image).argmax()) + vocabulary.range_of(Modality.IMAGE).start,
    }
    if known.size:
        most_frequent[Modality.ACTION] = int(np.bincount(known).argmax()) + vocabulary.range_of(Modality.ACTION).start
    return most_frequent
