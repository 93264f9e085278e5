"""Shards of every source -> trained tokenizers, unless they are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.storage import Folder
from data_pipelines.sources.episode import Episode
from data_pipelines.sources.moves import moves_between
from data_pipelines.sources.sample import UNKNOWN_ACTION, Sample, decode_sample, decode_watched, squared
from unimodel.config import EPISODES, RunConfig
from unimodel.observe.progress import ProgressBar, say
from unimodel.run_folder import RunFolder, write_json
from unimodel.tokenizers.action import by_agent
from unimodel.tokenizers.audio import AudioTokenizer
from unimodel.tokenizers.bundle import VOCABULARY_FILE, TokenizerBundle, join_vocabulary, load_bundle
from unimodel.tokenizers.finished import (
    SETTINGS_FILE,
    has_codes,
    has_odometer,
    odometer_settings,
    odometer_sources,
    source_names,
    source_splits,
    tokenizer_settings,
)
from unimodel.tokenizers.image import ImageTokenizer
from unimodel.tokenizers.latent_action import LatentActionModel
from unimodel.tokenizers.text import train_text_tokenizer
from unimodel.tokenizers.train_audio import train_audio_tokenizer
from unimodel.tokenizers.train_image import train_image_tokenizer
from unimodel.tokenizers.train_latent_action import train_latent_actions
from unimodel.tokenizers.train_odometer import STEPS, Walk, train_odometer
from unimodel.vocabulary import UNKNOWN, Modality

TOKENIZER_EPISODES = 1000
"""Episodes whose frames and captions the tokenizers are fitted to; more change nothing on grid worlds."""


def load_run_bundle(run: RunFolder) -> TokenizerBundle:
    """The tokenizers of a run."""
    vocabulary = run.tokenizers / VOCABULARY_FILE
    return load_bundle(
        run.text_tokenizer, run.image_tokenizer, run.audio_tokenizer, vocabulary, run.latent_actions, run.odometer
    )


def train_tokenizers(config: RunConfig, run: RunFolder) -> None:
    """Fits text, image and, where there is sound, audio tokenizers to the training shards, latent actions where they
    are asked for, and an odometer where a stage recalls by pose, unless the run has them.

    Raises ValueError when the run has tokenizers of other settings, latent actions have nothing to tell, or an odometer
    is needed and episodes have no poses.
    """
    if not has_codes(config, run):
        _train_codes(config, run)
    if odometer_sources(config) and not has_odometer(config, run):
        _train_odometer(config, run)


def _train_codes(config: RunConfig, run: RunFolder) -> None:
    """What turns samples into tokens."""
    samples = {source: list(_tokenizer_samples(config, source)) for source in source_names(config)}
    everything = [sample for some in samples.values() for sample in some]
    text = train_text_tokenizer(_texts(everything), config.tokenizers.text.vocabulary_size)
    image = _train_image(config, run, samples)
    audio = _train_audio(config, run, everything)
    latent = _train_latent_actions(config, run, samples)
    text.save_pretrained(run.text_tokenizer)
    image.save(run.image_tokenizer)
    if audio is not None:
        audio.save(run.audio_tokenizer)
    num_actions = max(sample.num_actions for sample in [*everything, *_first_samples(config)])
    if latent is not None:
        latent.save(run.latent_actions)
        num_actions = latent.num_codes + (0 if latent.config.replace_known else num_actions)
    vocabulary = join_vocabulary(text, image, audio, num_actions)
    write_json(run.tokenizers / VOCABULARY_FILE, vocabulary.to_dict())
    write_json(run.tokenizers / SETTINGS_FILE, tokenizer_settings(config))


def read_episodes(folder: Folder, limit: int | None = None) -> Iterator[Episode]:
    """Decoded episodes (or films) of one split, in order."""
    reader = ShardReader(folder)
    numbers = range(len(reader) if limit is None else min(limit, len(reader)))
    for key, fields in reader.read_in_order(numbers):
        yield decode_watched(key, fields)


def read_sample(config: RunConfig, source: str, reader: ShardReader, number: int) -> Sample:
    """A sample of a source as the tokenizers see it. Raises ValueError when it cannot be read."""
    sample = decode_sample(*reader.read(number))
    if source == EPISODES:
        return sample
    return replace(sample, frames=squared(sample.frames, config.data.sources[source].image_size))


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
            yield read_sample(config, source, reader, number)
        except ValueError:
            if source == EPISODES:
                raise


def _first_samples(config: RunConfig) -> Iterator[Sample]:
    """One of each source that the tokenizers are not fitted to."""
    for source in (name for name, settings in config.data.sources.items() if not settings.tokenizer_samples):
        yield read_sample(config, source, ShardReader(source_splits(config, source)["train"]), 0)


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


def _train_latent_actions(
    config: RunConfig, run: RunFolder, samples: dict[str, list[Sample]]
) -> LatentActionModel | None:
    settings = config.tokenizers.latent_action
    if settings is None:
        return None
    films = [[s.frames for s in some if s.frames.size and s.num_frames > 1] for some in samples.values()]
    with ProgressBar("latent actions", settings.steps, log=run.log) as bar:
        return train_latent_actions(
            [some for some in films if some],
            settings,
            config.seed,
            lambda step, left: bar.advance(1, f"left {left:.3f}"),
        )


def _train_odometer(config: RunConfig, run: RunFolder) -> None:
    bundle, sources = load_run_bundle(run), odometer_sources(config)
    walks = {
        source: [_walk(sample, source, bundle) for sample in _tokenizer_samples(config, source)] for source in sources
    }
    if not any(walks.values()):
        raise ValueError(
            f"the odometer learns from {', '.join(sources)}, of which it gets tokenizer_samples: 0; raise it"
        )
    _require_one_size(walks)
    with ProgressBar("odometer", STEPS, log=run.log) as bar:
        learnt = train_odometer(
            [walk for some in walks.values() for walk in some],
            bundle.vocabulary,
            config.seed,
            lambda step, loss: bar.advance(1, f"loss {loss:.3f}"),
        )
    learnt.odometer.save(run.odometer)
    write_json(run.odometer / SETTINGS_FILE, odometer_settings(config, run))
    say(
        f"odometer: {learnt.accuracy:.1%} of the moves of held-out episodes told right, among "
        f"{learnt.odometer.shape.num_moves}; the most frequent one is {learnt.most_frequent:.1%} of them",
        log=run.log,
    )


def _walk(sample: Sample, source: str, bundle: TokenizerBundle) -> Walk:
    """An episode as the odometer reads it. Raises ValueError when nobody told its poses."""
    if not sample.poses.size or not sample.frames.size:
        raise ValueError(
            f"source '{source}': sample {sample.key} has no poses, and a memory of it recalls `by: pose`: take an "
            "environment that tells them (docs/data.md), or recall `by: key`"
        )
    vocabulary, codes = bundle.vocabulary, by_agent(bundle.action_codes(sample))[:, 0]
    first_action = vocabulary.range_of(Modality.ACTION).start
    frames = vocabulary.ids(Modality.IMAGE, bundle.image.encode(sample.frames))
    actions = np.where(codes == UNKNOWN_ACTION, UNKNOWN, codes + first_action)
    return Walk(frames.reshape(len(frames), -1), actions, moves_between(sample.poses))


def _require_one_size(walks: Mapping[str, Sequence[Walk]]) -> None:
    sizes = {walk.frames.shape[1]: source for source, some in walks.items() for walk in some}
    if len(sizes) > 1:
        (one, here), (other, there) = list(sizes.items())[:2]
        raise ValueError(
            f"a memory that recalls `by: pose` is of pictures of one size: those of source '{here}' have {one} codes, "
            f"those of '{there}' {other}"
        )


def _texts(samples: list[Sample]) -> Iterator[str]:
    for sample in samples:
        yield sample.mission
        yield from (event.text for event in sample.events)
        yield from sample.captions
