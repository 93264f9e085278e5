"""Shards of every source -> trained tokenizers -> tokenised shards. Each step is skipped when its result is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_pipelines.shards.index import Manifest, ShardEntry, write_manifest
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.storage import Folder
from data_pipelines.shards.table import Lengths
from data_pipelines.shards.writer import write_shard
from data_pipelines.sources.episode import Episode, decode_episode
from data_pipelines.sources.sample import Sample, decode_sample, squared
from unimodel.config import EPISODES, RunConfig
from unimodel.observe.progress import ProgressBar, say
from unimodel.run_folder import RunFolder, append_json_line, write_json
from unimodel.tokenizers.audio import AudioTokenizer
from unimodel.tokenizers.bundle import VOCABULARY_FILE, TokenizerBundle, join_vocabulary, load_bundle
from unimodel.tokenizers.finished import (
    SETTINGS_FILE,
    has_tokenizers,
    has_tokens_of,
    source_names,
    source_splits,
    tokenizer_settings,
    tokens_metadata,
)
from unimodel.tokenizers.image import ImageTokenizer
from unimodel.tokenizers.text import encode_text, train_text_tokenizer
from unimodel.tokenizers.tokenised_shards import encode_tokenised, tokenised_lengths
from unimodel.tokenizers.train_audio import train_audio_tokenizer
from unimodel.tokenizers.train_image import train_image_tokenizer
from unimodel.tokenizers.unified import TokenisedEpisode

TOKENIZER_EPISODES = 1000
"""Episodes whose frames and captions the tokenizers are fitted to; more change nothing on grid worlds."""
SAMPLES_PER_SHARD = 1000
QUARANTINE = "quarantine.jsonl"
"""Beside the codes of a source: its samples that could not be read, and why."""


def load_run_bundle(run: RunFolder) -> TokenizerBundle:
    """The tokenizers of a run."""
    return load_bundle(run.text_tokenizer, run.image_tokenizer, run.audio_tokenizer, run.tokenizers / VOCABULARY_FILE)


def train_tokenizers(config: RunConfig, run: RunFolder) -> None:
    """Fits text, image and, where there is sound, audio tokenizers to the training shards, unless the run has them.

    Raises ValueError when the run has tokenizers of other settings.
    """
    if has_tokenizers(config, run):
        return
    samples = {source: list(_tokenizer_samples(config, source)) for source in source_names(config)}
    everything = [sample for some in samples.values() for sample in some]
    text = train_text_tokenizer(_texts(everything), config.tokenizers.text.vocabulary_size)
    image = _train_image(config, run, samples)
    audio = _train_audio(config, run, everything)
    text.save_pretrained(run.text_tokenizer)
    image.save(run.image_tokenizer)
    if audio is not None:
        audio.save(run.audio_tokenizer)
    vocabulary = join_vocabulary(text, image, audio, max(sample.num_actions for sample in everything))
    write_json(run.tokenizers / VOCABULARY_FILE, vocabulary.to_dict())
    write_json(run.tokenizers / SETTINGS_FILE, tokenizer_settings(config))


def tokenise_dataset(config: RunConfig, run: RunFolder) -> None:
    """Turns the samples of every source and split into codes, unless these very tokenizers have.

    Raises ValueError when a recorded episode cannot be read, or more than `data.max_bad_samples` of another source.
    """
    bundle = load_run_bundle(run)
    for source in source_names(config):
        for split, folder in source_splits(config, source).items():
            if not has_tokens_of(config, run, source, split):
                _tokenise_split(config, run, bundle, source, split, ShardReader(folder))


def read_episodes(folder: Folder, limit: int | None = None) -> Iterator[Episode]:
    """Decoded episodes of one split, in order."""
    reader = ShardReader(folder)
    numbers = range(len(reader) if limit is None else min(limit, len(reader)))
    for key, fields in reader.read_in_order(numbers):
        yield decode_episode(key, fields)


def tokenise_sample(sample: Sample, bundle: TokenizerBundle) -> TokenisedEpisode:
    """One sample through the tokenizers."""
    frames = sample.frames
    return TokenisedEpisode(
        key=sample.key,
        frames=bundle.image.encode(frames) if frames.size else np.zeros((len(frames), 0, 0), dtype=np.int64),
        audio=audio_codes(sample, bundle.audio),
        actions=sample.actions,
        rewards=sample.rewards,
        done=sample.done,
        mission=encode_text(bundle.text, sample.mission),
        captions=tuple(encode_text(bundle.text, caption) for caption in sample.captions),
    )


def audio_codes(sample: Sample, tokenizer: AudioTokenizer | None) -> np.ndarray:
    """int64 [frames, codes] of the sound of every moment; every moment gets equally many whole hops."""
    if tokenizer is None or not sample.audio.size:
        return np.zeros((sample.num_frames, 0), dtype=np.int64)
    hops = sample.num_frames * tokenizer.hops_of(sample.seconds_per_frame) if sample.seconds_per_frame else None
    fitted = tokenizer.fitted(sample.audio, sample.audio_rate, hops)
    return tokenizer.encode(fitted).reshape(sample.num_frames, -1)


def _tokenise_split(
    config: RunConfig, run: RunFolder, bundle: TokenizerBundle, source: str, split: str, reader: ShardReader
) -> None:
    target = run.tokens_of(source, split)
    target.mkdir(parents=True, exist_ok=True)
    (target / QUARANTINE).unlink(missing_ok=True)
    name = split if source == EPISODES else f"{source} {split}"
    shards: list[ShardEntry] = []
    with ProgressBar(f"tokenising {name}", len(reader), log=run.log) as bar:
        for start in range(0, len(reader), SAMPLES_PER_SHARD):
            numbers = range(start, min(start + SAMPLES_PER_SHARD, len(reader)))
            samples = _tokenised(config, source, reader, numbers, bundle, target / QUARANTINE, bar)
            shards.append(write_shard(target / f"tokens-{len(shards):06d}.tar", samples))
    if (target / QUARANTINE).exists():
        say(f"warning: some samples of {name} could not be read: {target / QUARANTINE} lists them", log=run.log)
    write_manifest(target, Manifest(tuple(shards), tokens_metadata(config, run, source, split)))


def _tokenised(
    config: RunConfig,
    source: str,
    reader: ShardReader,
    numbers: range,
    bundle: TokenizerBundle,
    quarantine: Path,
    bar: ProgressBar,
) -> Iterator[tuple[str, dict[str, bytes], Lengths]]:
    for number in reader.in_order(numbers):
        try:
            episode = tokenise_sample(_read_sample(config, source, reader, number), bundle)
        except ValueError as error:
            if source == EPISODES:
                raise  # recorded here: they can be recorded again
            _leave_out(reader, number, error, quarantine, config.data.max_bad_samples)
            continue
        finally:
            bar.advance(1)
        yield episode.key, encode_tokenised(episode), tokenised_lengths(episode)


def _leave_out(reader: ShardReader, number: int, error: ValueError, quarantine: Path, limit: int) -> None:
    shard, _ = reader.place(number)
    line = {"shard": str(shard), "key": reader.key(number), "reason": str(error)}
    append_json_line(quarantine, line)
    count = quarantine.read_bytes().count(b"\n")
    if count > limit:
        raise ValueError(
            f"{count} samples could not be read, more than data.max_bad_samples ({limit}): {quarantine} lists them; "
            "repair the data or raise the limit, then run the same command again"
        )


def _tokenizer_samples(config: RunConfig, source: str) -> Iterator[Sample]:
    """Samples that the tokenizers are fitted to, spread over the whole source; unreadable ones are passed over."""
    reader = ShardReader(source_splits(config, source)["train"])
    if source == EPISODES:
        numbers = range(min(TOKENIZER_EPISODES, len(reader)))
    else:
        wanted = min(config.data.sources[source].tokenizer_samples, len(reader))
        numbers = [i * len(reader) // wanted for i in range(wanted)]
    for number in reader.in_order(numbers):
        try:
            yield _read_sample(config, source, reader, number)
        except ValueError:
            if source == EPISODES:
                raise


def _read_sample(config: RunConfig, source: str, reader: ShardReader, number: int) -> Sample:
    sample = decode_sample(*reader.read(number))
    if source == EPISODES:
        return sample
    return replace(sample, frames=squared(sample.frames, config.data.sources[source].image_size))


def _train_image(config: RunConfig, run: RunFolder, samples: dict[str, list[Sample]]) -> ImageTokenizer:
    pictures = [[s.frames for s in some if s.frames.size] for some in samples.values()]
    with ProgressBar("image tokenizer", config.tokenizers.image.steps, log=run.log) as bar:
        return train_image_tokenizer(
            [np.concatenate(frames) for frames in pictures if frames],
            config.tokenizers.image,
            config.seed,
            lambda step, error: bar.advance(1, f"PSNR {-10 * np.log10(error):.1f} dB"),
        )


def _train_audio(config: RunConfig, run: RunFolder, samples: list[Sample]) -> AudioTokenizer | None:
    settings = config.tokenizers.audio
    untrained = AudioTokenizer(settings)
    sounds = [untrained.fitted(s.audio, s.audio_rate) for s in samples if s.audio.size]
    if not sounds:
        return None
    with ProgressBar("audio tokenizer", settings.steps, log=run.log) as bar:
        return train_audio_tokenizer(
            sounds, settings, config.seed, lambda step, lost: bar.advance(1, f"lost {lost:.3f}")
        )


def _texts(samples: list[Sample]) -> Iterator[str]:
    for sample in samples:
        yield sample.mission
        yield from sample.captions
