"""A folder of WebDataset tars made elsewhere as a source: pictures, texts, sounds and pieces of film are kept, other
fields are left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.shards.foreign import ForeignMember, scan_samples
from data_pipelines.sources.fields import (
    PICTURE_FIELDS,
    SOUND_FIELDS,
    STRIP_FIELDS,
    TEXT_FIELDS,
    TRACK_FIELD,
    caption_in,
    first_of,
)
from data_pipelines.sources.files import file_blocks, list_files
from data_pipelines.sources.item import UNREADABLE, Block, Dropped, EncodedSample, encode_about, safe_key
from data_pipelines.sources.measure import measure
from data_pipelines.sources.picture import encode_picture
from data_pipelines.sources.row import Row, row_sample
from data_pipelines.sources.settings import WebDatasetSource


def list_tars(source: WebDatasetSource) -> list[Block]:
    """One block per tar."""
    blocks = file_blocks(source.path, list_files(source.path, (".tar",)), max_files=1, max_bytes=1)
    return [Block(block.place["files"][0], block.place, None) for block in blocks]


def read_tar(source: WebDatasetSource, provenance: dict[str, Any], block: Block) -> Iterator[EncodedSample | Dropped]:
    """The samples of a tar; where it is damaged, those before and what is wrong."""
    (name,) = block.place["files"]
    path = source.path if source.path.is_file() else source.path / name
    with path.open("rb") as file:
        try:
            for key, members in scan_samples(path, source.max_member_megabytes << 20):
                label = f"{name}, sample {key}"
                if refused := [member for member in members if member.refused]:
                    yield Dropped(f"{name}, member {refused[0].name}", UNREADABLE, refused[0].refused)
                    continue
                fields = {member.field: _payload(file, member) for member in members}
                identity = key.removeprefix("./")
                identity = f"{name.removesuffix('.tar')}-{identity}" if source.prefix_keys else identity
                yield _sample(source, provenance | {"file": name}, safe_key(identity), label, fields)
        except ValueError as error:
            yield Dropped(name, UNREADABLE, str(error).replace(str(path), Path(name).name))


def _sample(
    source: WebDatasetSource, provenance: dict[str, Any], key: str, label: str, fields: dict[str, bytes]
) -> EncodedSample | Dropped:
    try:
        about = json.loads(fields.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        return Dropped(label, UNREADABLE, f"its json is not valid ({error})")
    about = about if isinstance(about, dict) else {"json": about}
    text_field = first_of(TEXT_FIELDS, fields)
    text = caption_in(about) if text_field is None else fields[text_field]
    about = provenance | about  # a sample that says where it comes from knows better than the build file
    if first_of(STRIP_FIELDS, fields):
        return _film_piece(key, label, fields, about)
    image, audio = (fields.get(first_of(names, fields) or "") for names in (PICTURE_FIELDS, SOUND_FIELDS))
    return row_sample(Row(key, label, image, text, audio, about), source.picture_format, source.sound)


def _film_piece(key: str, label: str, fields: dict[str, bytes], about: dict[str, Any]) -> EncodedSample | Dropped:
    """A piece made by another build, or a recorded episode: taken over as it is."""
    kept = {n: p for n, p in fields.items() if n in (*STRIP_FIELDS, TRACK_FIELD, "txt") or n.endswith(".npy")}
    try:
        for name in STRIP_FIELDS:
            if name in kept:
                encode_picture(kept[name])
        kept["json"] = encode_about(about)
    except ValueError as error:
        return Dropped(label, UNREADABLE, str(error))
    # Pieces of one film stay in one split, the one they had.
    group = key.rpartition("-")[0] if "start_second" in about else key
    return EncodedSample(key, label, kept, measure(kept), group or key)


def _payload(file: Any, member: ForeignMember) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)
