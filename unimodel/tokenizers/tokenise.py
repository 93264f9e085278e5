"""Shards of every source -> tokenised shards, through the run's tokenizers. What was finished is not made again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.shards.atomic import publish, remove_partials
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.table import Lengths
from data_pipelines.shards.unfinished import finish_folder, missing_shards, publish_sidecar, read_sidecars
from data_pipelines.shards.writer import write_shard
from data_pipelines.sources.sample import NO_POSES, Sample
from unimodel.config import EPISODES, RunConfig
from unimodel.observe.progress import ProgressBar, say
from unimodel.run_folder import RunFolder
from unimodel.tokenizers.audio import AudioTokenizer
from unimodel.tokenizers.bundle import TokenizerBundle
from unimodel.tokenizers.finished import has_tokens_of, source_names, source_splits, tokens_metadata
from unimodel.tokenizers.prepare import load_run_bundle, read_sample
from unimodel.tokenizers.text import encode_text
from unimodel.tokenizers.tokenised_shards import encode_tokenised, tokenised_lengths
from unimodel.tokenizers.unified import TokenisedEpisode

SAMPLES_PER_SHARD = 1000
QUARANTINE = "quarantine.jsonl"
"""Beside the codes of a source: its samples that could not be read, and why."""

LeftOut = dict[str, str]


def tokenise_dataset(config: RunConfig, run: RunFolder) -> None:
    """Turns the samples of every source and split into codes, unless these very tokenizers have.

    Raises ValueError when a recorded episode cannot be read, or more than `data.max_bad_samples` of another source.
    """
    bundle = load_run_bundle(run)
    for source in source_names(config):
        for split, folder in source_splits(config, source).items():
            if not has_tokens_of(config, run, source, split):
                _tokenise_split(config, run, bundle, source, split, ShardReader(folder))


def tokenise_sample(sample: Sample, bundle: TokenizerBundle) -> TokenisedEpisode:
    """One sample through the tokenizers."""
    frames = sample.frames
    return TokenisedEpisode(
        key=sample.key,
        frames=bundle.image.encode(frames) if frames.size else np.zeros((len(frames), 0, 0), dtype=np.int64),
        audio=audio_codes(sample, bundle.audio),
        actions=bundle.action_codes(sample),
        rewards=sample.rewards,
        done=sample.done,
        mission=encode_text(bundle.text, sample.mission),
        captions=tuple(encode_text(bundle.text, caption) for caption in sample.captions),
        events=tuple((event.step, encode_text(bundle.text, event.text)) for event in sample.events),
        poses=sample.poses.astype(np.float32) if sample.poses.size else NO_POSES,
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
    """Shard by shard; those that were finished before, by these tokenizers from these bytes, stay."""
    target, metadata = run.tokens_of(source, split), tokens_metadata(config, run, source, split)
    target.mkdir(parents=True, exist_ok=True)
    remove_partials(target)
    name = split if source == EPISODES else f"{source} {split}"
    starts = range(0, len(reader), SAMPLES_PER_SHARD)
    shards = [target / f"tokens-{number:06d}.tar" for number in range(len(starts))]
    finished = _finished(target, shards, metadata)
    left_out: list[LeftOut] = []
    with ProgressBar(f"tokenising {name}", len(reader), log=run.log) as bar:
        for shard, start in zip(shards, starts, strict=True):
            numbers = range(start, min(start + SAMPLES_PER_SHARD, len(reader)))
            if shard.name in finished:
                left_out += finished[shard.name]
                bar.advance(len(numbers))
                continue
            before = len(left_out)
            entry = write_shard(shard, _tokenised(config, source, reader, numbers, bundle, left_out, target, bar))
            about = {"shard": asdict(entry), "made_from": metadata, "left_out": left_out[before:]}
            publish_sidecar(shard, about)
    if left_out:
        quarantine = _write_quarantine(target, left_out)
        say(f"warning: some samples of {name} could not be read: {quarantine} lists them", log=run.log)
    else:
        (target / QUARANTINE).unlink(missing_ok=True)
    finish_folder(target, shards, metadata)


def _finished(target: Path, shards: list[Path], metadata: dict[str, Any]) -> dict[str, list[LeftOut]]:
    """What was left out of every shard that is there, whole and made from the same, by file name."""
    found = {name: entry for name, entry in read_sidecars(target).items() if entry.get("made_from") == metadata}
    candidates = [shard for shard in shards if shard.name in found]
    missing = {shard.name for shard in missing_shards(target, candidates)}
    return {shard.name: found[shard.name]["left_out"] for shard in candidates if shard.name not in missing}


def _tokenised(
    config: RunConfig,
    source: str,
    reader: ShardReader,
    numbers: range,
    bundle: TokenizerBundle,
    left_out: list[LeftOut],
    target: Path,
    bar: ProgressBar,
) -> Iterator[tuple[str, dict[str, bytes], Lengths]]:
    """Adds to `left_out` what cannot be read; too much of that is a ValueError."""
    limit = config.data.max_bad_samples
    for number in reader.in_order(numbers):
        try:
            episode = tokenise_sample(read_sample(config, source, reader, number), bundle)
        except ValueError as error:
            if source == EPISODES:
                raise  # recorded here: they can be recorded again
            left_out.append({"shard": str(reader.place(number)[0]), "key": reader.key(number), "reason": str(error)})
            if len(left_out) > limit:
                raise ValueError(
                    f"{len(left_out)} samples could not be read, more than data.max_bad_samples ({limit}): "
                    f"{_write_quarantine(target, left_out)} lists them; repair the data or raise the limit, then run "
                    "the same command again"
                ) from None
            continue
        finally:
            bar.advance(1)
        yield episode.key, encode_tokenised(episode), tokenised_lengths(episode)


def _write_quarantine(target: Path, left_out: list[LeftOut]) -> Path:
    path = target / QUARANTINE
    publish(path, b"".join(json.dumps(line).encode() + b"\n" for line in left_out))
    return path
