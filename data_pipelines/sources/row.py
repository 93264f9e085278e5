"""From the values of one item (a picture, a text, a sound) to the fields of its sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from data_pipelines.sources.item import UNREADABLE, Dropped, EncodedSample, checked_text, encode_about
from data_pipelines.sources.picture import PictureFormat, encode_picture
from data_pipelines.sources.settings import SoundSettings


@dataclass(frozen=True, slots=True)
class Row:
    """One item as its source gives it; `about` goes into the sample's `json`."""

    key: str
    name: str
    image: bytes | None = None
    text: bytes | str | None = None
    audio: bytes | None = None
    about: dict[str, Any] = field(default_factory=dict)


def row_sample(row: Row, picture_format: PictureFormat, sound: SoundSettings) -> EncodedSample | Dropped:
    """The sample of a row; Dropped, with what is wrong, when one of its values cannot be read."""
    fields: dict[str, bytes] = {}
    lengths: dict[str, int | tuple[int, int]] = {}
    about = dict(row.about)
    try:
        if row.image is not None:
            name, payload, size = encode_picture(row.image, picture_format)
            fields[name], lengths["size"] = payload, size
        if row.audio is not None:
            from data_pipelines.sources.sound import read_whole_sound

            fields["flac"], samples = read_whole_sound(row.audio, sound)
            lengths["sound"] = samples
            about |= {"sound_rate": sound.rate, "seconds": samples / sound.rate}
        if row.text is not None and (text := checked_text(row.text)):
            fields["txt"], lengths["text"] = text, len(text)
        json_field = encode_about(about)
    except ValueError as error:
        return Dropped(row.name, UNREADABLE, str(error))
    if not fields:
        return Dropped(row.name, "empty", "neither picture, sound nor text")
    fields["json"] = json_field
    return EncodedSample(row.key, row.name, fields, lengths, group=row.key)
