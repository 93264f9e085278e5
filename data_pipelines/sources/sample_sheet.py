"""A page of samples to look at and listen to: what a data set really holds, unreadable ones included."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from data_pipelines.shards.atomic import publish
from data_pipelines.shards.index import split_folders
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.storage import Folder
from data_pipelines.sources.fields import SOUND_FIELDS, TRACK_FIELD, first_of
from data_pipelines.sources.sample import Sample, decode_sample
from data_pipelines.stream.randomness import keyed_generator

TEMPLATE = "sample_sheet.html.j2"
SHOWN_FRAMES = 8
"""Of an episode or a film, spread over it."""
SHOWN_SIDE = 160
"""Longer side of a picture on the page, pixels; small ones are magnified by whole factors."""
MAX_SOUND_BYTES = 2 << 20
"""Longer sounds are told of, not put on the page."""
SOUND_TYPES = {"mp3": "audio/mpeg", "m4a": "audio/mp4", "opus": "audio/ogg"}


@dataclass(frozen=True, slots=True)
class SheetItem:
    """One sample on the page."""

    key: str
    shard: str
    facts: str
    pictures: tuple[str, ...]
    """As data addresses."""
    sound: str
    """As a data address; "" without."""
    words: tuple[str, ...]
    error: str
    """Why it cannot be read; "" when it can."""


def write_sample_sheet(folder: Folder, path: Path, samples_per_split: int = 24) -> None:
    """Writes an HTML file, complete in itself, of randomly chosen samples of every split, the same ones every time.

    Raises FileNotFoundError or ValueError as `ShardReader` does, ValueError when the folder holds codes.
    """
    splits = {}
    for split, place in split_folders(folder).items():
        reader = ShardReader(place)
        if str(reader.metadata.get("kind", "")).startswith("tokenised"):
            raise ValueError(f"{place} holds codes of samples: make the sheet of the data that they were made from")
        order = keyed_generator("sample sheet", split).permutation(len(reader))[:samples_per_split]
        splits[split] = (len(reader), [_item(reader, number) for number in sorted(order.tolist())])
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("data_pipelines.sources", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template(TEMPLATE).render(folder=str(folder), splits=splits)
    publish(path, page.encode())


def _item(reader: ShardReader, number: int) -> SheetItem:
    shard = str(reader.place(number)[0]).rsplit("/", 1)[-1]
    try:
        key, fields = reader.read(number)
        sample = decode_sample(key, fields)
    except ValueError as error:
        return SheetItem(reader.key(number), shard, "", (), "", (), str(error))
    events = (f"before step {event.step}: {event.text}" for event in sample.events)
    words = (sample.mission, *events, *dict.fromkeys(sample.captions))
    return SheetItem(
        key=key,
        shard=shard,
        facts=_facts(sample),
        pictures=tuple(_picture(sample.frames[i]) for i in _spread(sample)),
        sound=_sound(fields),
        words=tuple(text for text in dict.fromkeys(words) if text)[:3],
        error="",
    )


def _facts(sample: Sample) -> str:
    facts = []
    if sample.frames.size:
        _, height, width, _ = sample.frames.shape
        facts.append(f"{width}x{height}")
    if sample.num_frames > 1:
        facts.append(f"{sample.num_frames} frames")
    if sample.audio.size:
        facts.append(f"{len(sample.audio) / sample.audio_rate:.1f} s at {sample.audio_rate / 1000:g} kHz")
    if len(sample.rewards) and np.nansum(sample.rewards):
        facts.append(f"reward {np.nansum(sample.rewards):g}")
    return ", ".join(facts) or f"{sum(map(len, sample.captions)):,} characters"


def _spread(sample: Sample) -> list[int]:
    if not sample.frames.size:
        return []
    count = min(SHOWN_FRAMES, sample.num_frames)
    return [i * (sample.num_frames - 1) // max(1, count - 1) for i in range(count)]


def _picture(frame: np.ndarray) -> str:
    image = Image.fromarray(frame)
    factor = SHOWN_SIDE / max(image.size)
    if factor >= 2:
        image = image.resize((image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST)
    else:
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    file = io.BytesIO()
    image.save(file, "PNG")
    return _address("image/png", file.getvalue())


def _sound(fields: dict[str, bytes]) -> str:
    field = first_of((TRACK_FIELD, *SOUND_FIELDS), fields)
    if field is None or len(fields[field]) > MAX_SOUND_BYTES:
        return ""
    suffix = field.rsplit(".", 1)[-1]
    return _address(SOUND_TYPES.get(suffix, f"audio/{suffix}"), fields[field])


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
