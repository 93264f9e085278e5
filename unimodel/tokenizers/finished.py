"""Which tokenizers and codes a run has, told from its files: asking costs no import of torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from data_pipelines.shards.index import INDEX_FILE, read_manifest, split_folders
from data_pipelines.shards.storage import Folder
from data_pipelines.shards.writer import file_sha256
from unimodel.config import EPISODES, RunConfig
from unimodel.config_file import settings_of
from unimodel.run_folder import RunFolder, read_json

SETTINGS_FILE = "settings.json"
"""Written last: its presence says that the tokenizers beside it are whole."""


def has_tokenizers(config: RunConfig, run: RunFolder) -> bool:
    """Whether all that is needed is there. Raises ValueError when the run has tokenizers of other settings."""
    return has_codes(config, run) and (not odometer_sources(config) or has_odometer(config, run))


def has_codes(config: RunConfig, run: RunFolder) -> bool:
    """Whether there is what turns samples into codes. Raises ValueError when it is of other settings."""
    return _is_made_of(tokenizer_settings(config), run.tokenizers, "tokenizers")


def has_odometer(config: RunConfig, run: RunFolder) -> bool:
    """Whether there is one for these codes. Raises ValueError when it is of others, or of other sources."""
    return _is_made_of(odometer_settings(config, run), run.odometer, "an odometer")


def _is_made_of(settings: dict[str, Any], folder: Path, what: str) -> bool:
    marker = folder / SETTINGS_FILE
    if not marker.exists():
        return False
    if read_json(marker) != settings:
        raise ValueError(
            f"{folder} holds {what} of other settings: choose another `name`, restore the settings, or delete the "
            "folder to train again"
        )
    return True


def tokenizer_settings(config: RunConfig) -> dict[str, Any]:
    """All that decides what tokenizers are trained."""
    return {
        "tokenizers": settings_of(config.tokenizers),
        "recording": settings_of(config.data.recording),
        "sources": {name: settings_of(source) for name, source in config.data.sources.items()},
        "seed": config.seed,
    }


def odometer_sources(config: RunConfig) -> list[str]:
    """The sources of worlds that are remembered by pose."""
    return sorted(
        {
            entry.source
            for stage in config.stages.values()
            if stage.memory is not None and stage.memory.recalls_by_pose
            for entry in stage.mixture
            if entry.sequence == "interaction"
        }
    )


def odometer_settings(config: RunConfig, run: RunFolder) -> dict[str, Any]:
    """All that decides what odometer is trained."""
    return {"tokenizers": tokenizers_hash(run), "sources": odometer_sources(config), "seed": config.seed}


def source_names(config: RunConfig) -> list[str]:
    """The recorded episodes and every other source."""
    return [EPISODES, *config.data.sources]


def source_splits(config: RunConfig, source: str) -> dict[str, Folder]:
    """Folders of shards by split; a source without splits is all for training.

    Raises FileNotFoundError when there is no data, ValueError when none of it is for training.
    """
    if source == EPISODES:
        return split_folders(config.data.folder)
    folder = config.data.sources[source].folder
    splits = split_folders(folder)
    if list(splits.values()) == [folder]:
        return {"train": folder}
    if "train" not in splits:
        raise ValueError(f"source '{source}': {folder} has no split 'train', only {', '.join(splits)}")
    return splits


def has_tokens(config: RunConfig, run: RunFolder) -> bool:
    """Whether every split of every source was turned into codes by these very tokenizers.

    Raises FileNotFoundError when there is no data.
    """
    return all(
        has_tokens_of(config, run, source, split)
        for source in source_names(config)
        for split in source_splits(config, source)
    )


def has_tokens_of(config: RunConfig, run: RunFolder, source: str, split: str) -> bool:
    """The same for one split."""
    target = run.tokens_of(source, split)
    if not (target / INDEX_FILE).exists():
        return False
    return read_manifest(target).metadata == tokens_metadata(config, run, source, split)


def tokens_metadata(config: RunConfig, run: RunFolder, source: str, split: str) -> dict[str, Any]:
    """What the codes of a split are made from: bytes of data, bytes of tokenizers."""
    hashes = [shard.sha256 for shard in read_manifest(source_splits(config, source)[split]).shards]
    size = None if source == EPISODES else config.data.sources[source].image_size
    return {"kind": "tokenised samples", "tokenizers": tokenizers_hash(run), "source": hashes, "image_size": size}


def tokenizers_hash(run: RunFolder) -> str:
    """Of all files of the tokenizers: codes of one tokenizer mean nothing to another. An odometer makes no codes, and
    may be added to a run that has them."""
    digest = hashlib.sha256()
    for folder in (run.text_tokenizer, run.image_tokenizer, run.audio_tokenizer, run.latent_actions):
        for file in sorted(folder.iterdir()) if folder.is_dir() else []:
            digest.update(f"{file.name} {file_sha256(file)} ".encode())
    return digest.hexdigest()
