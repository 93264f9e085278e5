"""Recorded shards -> trained tokenizers -> tokenised shards. Each step is skipped when its result is there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_pipelines.shards.index import Manifest, ShardEntry, split_folders, write_manifest
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.storage import Folder, join
from data_pipelines.shards.table import Lengths
from data_pipelines.shards.writer import write_shard
from data_pipelines.sources.episode import Episode, decode_episode
from unimodel.config import RunConfig
from unimodel.observe.progress import ProgressBar
from unimodel.run_folder import RunFolder, write_json
from unimodel.tokenizers.bundle import VOCABULARY_FILE, TokenizerBundle, join_vocabulary, load_bundle
from unimodel.tokenizers.finished import (
    SETTINGS_FILE,
    has_tokenizers,
    has_tokens_of,
    tokenizer_settings,
    tokens_metadata,
)
from unimodel.tokenizers.text import encode_text, train_text_tokenizer
from unimodel.tokenizers.tokenised_shards import encode_tokenised, tokenised_lengths
from unimodel.tokenizers.train_image import train_image_tokenizer
from unimodel.tokenizers.unified import TokenisedEpisode

TOKENIZER_EPISODES = 1000
"""Episodes whose frames and captions the tokenizers are fitted to; more change nothing on grid worlds."""
EPISODES_PER_SHARD = 1000


def load_run_bundle(run: RunFolder) -> TokenizerBundle:
    """The tokenizers of a run."""
    return load_bundle(run.text_tokenizer, run.image_tokenizer, run.tokenizers / VOCABULARY_FILE)


def train_tokenizers(config: RunConfig, run: RunFolder) -> None:
    """Fits text and image tokenizers to the training shards, unless the run has them.

    Raises ValueError when the run has tokenizers of other settings.
    """
    if has_tokenizers(config, run):
        return
    episodes = list(read_episodes(join(config.data.folder, "train"), TOKENIZER_EPISODES))
    text = train_text_tokenizer(_texts(episodes), config.tokenizers.text.vocabulary_size)
    frames = np.concatenate([episode.frames for episode in episodes])
    with ProgressBar("image tokenizer", config.tokenizers.image.steps, log=run.log) as bar:
        image = train_image_tokenizer(
            frames,
            config.tokenizers.image,
            config.seed,
            lambda step, error: bar.advance(1, f"PSNR {-10 * np.log10(error):.1f} dB"),
        )
    text.save_pretrained(run.text_tokenizer)
    image.save(run.image_tokenizer)
    write_json(run.tokenizers / VOCABULARY_FILE, join_vocabulary(text, image, episodes[0].num_actions).to_dict())
    write_json(run.tokenizers / SETTINGS_FILE, tokenizer_settings(config))


def tokenise_dataset(config: RunConfig, run: RunFolder) -> None:
    """Turns the episodes of every split into codes, unless these very tokenizers have."""
    bundle = load_run_bundle(run)
    for split, source in split_folders(config.data.folder).items():
        if has_tokens_of(config, run, split):
            continue
        reader, target = ShardReader(source), run.tokens / split
        shards: list[ShardEntry] = []
        with ProgressBar(f"tokenising {split}", len(reader), log=run.log) as bar:
            for start in range(0, len(reader), EPISODES_PER_SHARD):
                numbers = range(start, min(start + EPISODES_PER_SHARD, len(reader)))
                shards.append(
                    write_shard(target / f"tokens-{len(shards):06d}.tar", _tokenised(reader, numbers, bundle, bar))
                )
        write_manifest(target, Manifest(tuple(shards), tokens_metadata(config, run, split)))


def read_episodes(folder: Folder, limit: int | None = None) -> Iterator[Episode]:
    """Decoded episodes of one split, in order."""
    reader = ShardReader(folder)
    numbers = range(len(reader) if limit is None else min(limit, len(reader)))
    for key, fields in reader.read_in_order(numbers):
        yield decode_episode(key, fields)


def tokenise_episode(episode: Episode, bundle: TokenizerBundle) -> TokenisedEpisode:
    """One episode through the tokenizers."""
    return TokenisedEpisode(
        key=episode.key,
        frames=bundle.image.encode(episode.frames),
        actions=episode.actions,
        rewards=episode.rewards,
        done=episode.done,
        mission=encode_text(bundle.text, episode.mission),
        captions=tuple(encode_text(bundle.text, caption) for caption in episode.captions),
    )


def _tokenised(
    reader: ShardReader, numbers: range, bundle: TokenizerBundle, bar: ProgressBar
) -> Iterator[tuple[str, dict[str, bytes], Lengths]]:
    for key, fields in reader.read_in_order(numbers):
        episode = tokenise_episode(decode_episode(key, fields), bundle)
        yield episode.key, encode_tokenised(episode), tokenised_lengths(episode)
        bar.advance(1)


def _texts(episodes: list[Episode]) -> Iterator[str]:
    for episode in episodes:
        yield episode.mission
        yield from episode.captions
