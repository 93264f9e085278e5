"""Which tokenizers and codes a run has, told from its files: asking costs no import of torch."""

from __future__ import annotations

import hashlib
from typing import Any

from data_pipelines.shards.index import INDEX_FILE, read_manifest, split_folders
from data_pipelines.shards.writer import file_sha256
from unimodel.config import RunConfig
from unimodel.config_file import settings_of
from unimodel.run_folder import RunFolder, read_json

SETTINGS_FILE = "settings.json"
"""Written last: its presence says that the tokenizers beside it are whole."""


def has_tokenizers(config: RunConfig, run: RunFolder) -> bool:
    """Raises ValueError when the run has tokenizers of other settings."""
    marker = run.tokenizers / SETTINGS_FILE
    if not marker.exists():
        return False
    if read_json(marker) != tokenizer_settings(config):
        raise ValueError(
            f"{run.tokenizers} holds tokenizers of other settings: choose another `name`, restore the settings, or "
            "delete the folder to train them again"
        )
    return True


def tokenizer_settings(config: RunConfig) -> dict[str, Any]:
    """All that decides what tokenizers are trained."""
    return {
        "tokenizers": settings_of(config.tokenizers),
        "recording": settings_of(config.data.recording),
        "seed": config.seed,
    }


def has_tokens(config: RunConfig, run: RunFolder) -> bool:
    """Whether every split of the data was turned into codes by these very tokenizers.

    Raises FileNotFoundError when there is no data.
    """
    return all(has_tokens_of(config, run, split) for split in split_folders(config.data.folder))


def has_tokens_of(config: RunConfig, run: RunFolder, split: str) -> bool:
    """The same for one split."""
    target = run.tokens / split
    return (target / INDEX_FILE).exists() and read_manifest(target).metadata == tokens_metadata(config, run, split)


def tokens_metadata(config: RunConfig, run: RunFolder, split: str) -> dict[str, Any]:
    """What the codes of a split are made from: bytes of data, bytes of tokenizers."""
    source = split_folders(config.data.folder)[split]
    hashes = [shard.sha256 for shard in read_manifest(source).shards]
    return {"kind": "tokenised episodes", "format": 2, "tokenizers": tokenizers_hash(run), "source": hashes}


def tokenizers_hash(run: RunFolder) -> str:
    """Of all files of the text and the image tokenizer: codes of one tokenizer mean nothing to another."""
    digest = hashlib.sha256()
    for folder in (run.text_tokenizer, run.image_tokenizer):
        for file in sorted(folder.iterdir()) if folder.is_dir() else []:
            digest.update(f"{file.name} {file_sha256(file)} ".encode())
    return digest.hexdigest()
