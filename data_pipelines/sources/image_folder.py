"""A folder of pictures with captions beside them or in one table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from data_pipelines.sources.fields import CAPTION_KEYS, caption_in
from data_pipelines.sources.files import caption_beside, file_blocks, list_files, read_inside
from data_pipelines.sources.item import UNREADABLE, Block, Dropped, EncodedSample, safe_key
from data_pipelines.sources.picture import PICTURE_SUFFIXES
from data_pipelines.sources.row import Row, row_sample
from data_pipelines.sources.settings import ImagesSource, SoundSettings

BLOCK_FILES = 500
BLOCK_BYTES = 1 << 28


def list_images(source: ImagesSource) -> list[Block]:
    """Blocks of picture files; with a table of captions, each block carries those of its pictures."""
    files = list_files(source.path, PICTURE_SUFFIXES)
    blocks = file_blocks(source.path, files, max_files=BLOCK_FILES, max_bytes=BLOCK_BYTES)
    if source.captions is None:
        return blocks
    captions = read_captions(source)
    if not any(name in captions for block in blocks for name in block.place["files"]):
        raise ValueError(f"{source.path / source.captions} names none of the pictures: file_name is relative to it")
    return [_with_captions(block, captions) for block in blocks]


def read_images(source: ImagesSource, provenance: dict[str, Any], block: Block) -> Iterator[EncodedSample | Dropped]:
    """One sample per picture, named by its place in the folder without the suffix."""
    for name in block.place["files"]:
        try:
            image = read_inside(source.path, name)
            captions = block.place.get("captions")
            caption = captions.get(name) if captions is not None else caption_beside(source.path, name)
        except ValueError as error:
            yield Dropped(name, UNREADABLE, str(error))
            continue
        row = Row(safe_key(name.rpartition(".")[0]), name, image, caption, about=provenance | {"file": name})
        yield row_sample(row, source.picture_format, SoundSettings())


def read_captions(source: ImagesSource) -> dict[str, str]:
    """Captions by file name. Raises ValueError naming the line of the table that cannot be used."""
    assert source.captions is not None
    path = source.path / source.captions
    try:
        text = read_inside(source.path, source.captions).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except ValueError as error:
        raise ValueError(f"source.captions {path}: {error}") from None
    captions: dict[str, str] = {}
    for number, row in _rows(text, source.captions):
        name = row.get("file_name") if isinstance(row, dict) else None
        caption = caption_in(row)
        if not isinstance(name, str) or caption is None:
            raise ValueError(f"{path}, row {number}: it needs file_name and one of {', '.join(CAPTION_KEYS)}")
        if name in captions:
            raise ValueError(f"{path}, row {number}: {name} has a caption already")
        captions[name] = caption
    return captions


def _rows(text: str, name: str) -> Iterator[tuple[int, Any]]:
    if name.endswith(".csv"):
        try:
            yield from enumerate(csv.DictReader(io.StringIO(text, newline="")), start=1)
        except csv.Error as error:
            raise ValueError(f"{name} is not valid CSV ({error})") from None
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{name}, row {number}: not valid JSON ({error})") from None


def _with_captions(block: Block, captions: dict[str, str]) -> Block:
    mine = {name: captions[name] for name in block.place["files"] if name in captions}
    return Block(block.name, block.place | {"captions": mine}, block.num_items)
