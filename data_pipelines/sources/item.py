"""What a source gives: samples ready for a shard, or why there is none. And what a source is read in: blocks."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from data_pipelines.shards.table import Lengths

MAX_KEY_CHARACTERS = 64
"""With its field name a key must fit the 100 bytes of a tar header."""
UNREADABLE = "unreadable"

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a source that one process reads in one go: the same block always gives the same samples.

    name   unique, for people and for the fingerprint of the listing
    place  JSON-able, understood by the source that listed it: file names, row ranges
    num_items  files or rows; None when only reading tells
    """

    name: str
    place: dict[str, Any]
    num_items: int | None


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """A sample as it goes into a shard.

    name    of the item in its source, for people: a file, a row
    group   decides the split: pieces of one file share it
    """

    key: str
    name: str
    fields: dict[str, bytes]
    lengths: Lengths
    group: str = field(default="")


@dataclass(frozen=True, slots=True)
class Dropped:
    """An item that gives no sample: `reason` is a word to count by, `detail` is for people."""

    name: str
    reason: str
    detail: str


def safe_key(name: str) -> str:
    """A key for a stem, row number or id, the same whatever else the source holds.

    What is not letters, digits, `_` or `-` becomes `_`; a name that is changed by that, or is too long, gets a piece
    of its hash, so that different names have different keys.
    """
    key = _UNSAFE.sub("_", name)[:MAX_KEY_CHARACTERS].strip("_") or "sample"
    if key == name:
        return key
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{key[: MAX_KEY_CHARACTERS - 11]}-{digest}"


def encode_about(about: dict[str, Any]) -> bytes:
    """The `json` field; equal values give equal bytes. Raises ValueError for what JSON cannot hold (NaN)."""
    text = json.dumps(about, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")  # half a surrogate pair, from odd file names, as JSON escapes it


def checked_text(text: bytes | str) -> bytes:
    """A caption as UTF-8 without surrounding white space. Raises ValueError naming the byte that is not UTF-8."""
    try:
        return (text.encode() if isinstance(text, str) else text.decode("utf-8-sig").encode()).strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"the text is not UTF-8 (byte {error.start})") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"the text cannot be written as UTF-8 (character {error.start})") from None
