"""The kinds of source: how each is listed in blocks and how a block is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_pipelines.sources.action_codes import ActionCodes
from data_pipelines.sources.audio_files import list_audio, read_audio
from data_pipelines.sources.foreign_tars import list_tars, read_tar
from data_pipelines.sources.hugging_face import list_dataset, read_dataset
from data_pipelines.sources.image_folder import list_images, read_images
from data_pipelines.sources.item import Block, Dropped, EncodedSample
from data_pipelines.sources.lerobot import list_lerobot, read_lerobot
from data_pipelines.sources.minari import list_minari, read_minari
from data_pipelines.sources.settings import (
    AudioSource,
    HuggingFaceSource,
    ImagesSource,
    LeRobotSource,
    MinariSource,
    Source,
    TablesSource,
    VideoActionsSource,
    VideoSource,
    WebDatasetSource,
)
from data_pipelines.sources.tables import list_rows, read_rows
from data_pipelines.sources.video_actions import list_video_actions, read_video_actions
from data_pipelines.sources.video_files import list_video, read_video


def list_blocks(source: Source) -> list[Block]:
    """The blocks of a source, in order, without reading its samples.

    Raises FileNotFoundError or ValueError, naming the place, when it cannot be listed.
    """
    match source:
        case ImagesSource():
            return list_images(source)
        case TablesSource():
            return list_rows(source)
        case AudioSource():
            return list_audio(source)
        case VideoSource():
            return list_video(source)
        case WebDatasetSource():
            return list_tars(source)
        case HuggingFaceSource():
            return list_dataset(source)
        case MinariSource():
            return list_minari(source)
        case LeRobotSource():
            return list_lerobot(source)
        case VideoActionsSource():
            return list_video_actions(source)


def read_block(source: Source, provenance: dict[str, Any], block: Block) -> Iterator[EncodedSample | Dropped]:
    """The samples of a block, in order, each with `provenance` in its `json`."""
    match source:
        case ImagesSource():
            return read_images(source, provenance, block)
        case TablesSource():
            return read_rows(source, provenance, block)
        case AudioSource():
            return read_audio(source, provenance, block)
        case VideoSource():
            return read_video(source, provenance, block)
        case WebDatasetSource():
            return read_tar(source, provenance, block)
        case HuggingFaceSource():
            return read_dataset(source, provenance, block)
        case MinariSource():
            return read_minari(source, provenance, block)
        case LeRobotSource():
            return read_lerobot(source, provenance, block)
        case VideoActionsSource():
            return read_video_actions(source, provenance, block)


def actions_of(blocks: list[Block]) -> ActionCodes | None:
    """What the actions of the samples stand for; None when the source has none that this project numbers."""
    place = blocks[0].place if blocks else {}
    return ActionCodes(**place["actions"]) if "actions" in place else None
