"""Names of a sample's fields, one list for all who write, measure or read them.

    frames.png, actions.npy ...     an episode, as `episode.py` writes it
    frames.jpg                      a film: its frames stacked top to bottom, in `json` how many and how fast
    png jpg webp ...                a picture
    flac wav mp3 ...                a sound
    sound.flac                      the sound of an episode or a film
    txt, or caption in `json` ...   the words of any of them; a text when there is nothing else

Builds write `png`, `jpg`, `webp`, `flac` and `txt`; tars made elsewhere have the others too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ACTIONS_FIELD = "actions.npy"
STRIP_FIELDS = ("frames.jpg", "frames.png")
PICTURE_FIELDS = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm")
SOUND_FIELDS = ("flac", "wav", "mp3", "ogg", "opus", "m4a")
TRACK_FIELD = "sound.flac"
TEXT_FIELDS = ("txt", "text", "caption", "caption.txt")
CAPTION_KEYS = ("caption", "text")
"""Under which `json`, a table or a caption file may hold the words."""


def first_of(names: Iterable[str], fields: Mapping[str, Any]) -> str | None:
    """The first of `names` that is among the fields."""
    return next((name for name in names if name in fields), None)


def caption_in(values: Any) -> str | None:
    """The words that a JSON object holds under CAPTION_KEYS; None when it holds none."""
    found = (values[key] for key in CAPTION_KEYS if isinstance(values, Mapping) and isinstance(values.get(key), str))
    return next(found, None)
