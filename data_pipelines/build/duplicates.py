"""Finds samples that are alike: a fingerprint of each, made where it is read, and one pass over all of them in order.

The first of a group in the order of the source is kept, so the result does not depend on the number of processes.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections import defaultdict
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.build.settings import DuplicateSettings
from data_pipelines.extras import load_extra
from data_pipelines.sources.fields import (
    ACTIONS_FIELD,
    PICTURE_FIELDS,
    SOUND_FIELDS,
    STRIP_FIELDS,
    TRACK_FIELD,
    first_of,
)
from data_pipelines.sources.item import EncodedSample

MEDIA_FIELDS = (*PICTURE_FIELDS, *STRIP_FIELDS, *SOUND_FIELDS, TRACK_FIELD, ACTIONS_FIELD)
"""Actions too: where nothing moves, episodes look alike and are not."""
HASH_BITS = 64
MINHASH_VALUES = 128
MINHASH_SCHEME = "affine32"
SHINGLE_WORDS = 5


def fingerprint(sample: EncodedSample, settings: DuplicateSettings) -> dict[str, str]:
    """What `Duplicates` compares, as short JSON-able text.

    Raises MissingExtraError when a library that the settings need is not installed.
    """
    media = [sample.fields[name] for name in MEDIA_FIELDS if name in sample.fields]
    picture = sample.fields.get(first_of(PICTURE_FIELDS, sample.fields) or "")
    prints: dict[str, str] = {}
    if settings.exact:
        digest = hashlib.sha256()
        for payload in media or [sample.fields.get("txt", b"")]:
            digest.update(hashlib.sha256(payload).digest())
        prints["exact"] = digest.hexdigest()
    if settings.picture_distance is not None and picture is not None:
        prints["picture"] = _perceptual_hash(picture)
    if settings.text_similarity is not None and not media:
        prints["text"] = _minhash(sample.fields.get("txt", b"").decode())
    return prints


class Duplicates:
    """Takes fingerprints in order and tells which sample each one repeats."""

    def __init__(self, settings: DuplicateSettings) -> None:
        self._settings = settings
        self._exact: dict[str, str] = {}
        self._pictures = _NearHashes(settings.picture_distance or 0)
        self._texts: Any = None if settings.text_similarity is None else _text_index(settings.text_similarity)
        self._minhashes: dict[str, Any] = {}

    def find(self, key: str, prints: dict[str, str]) -> tuple[str, str] | None:
        """(reason, key of the earlier sample), or None and the sample counts as kept from here on."""
        if (digest := prints.get("exact")) is not None and digest in self._exact:
            return "exact duplicate", self._exact[digest]
        picture = int(prints["picture"], 16) if "picture" in prints else None
        if picture is not None and (other := self._pictures.find(picture)) is not None:
            return "near duplicate picture", other
        text = _decode_minhash(prints["text"]) if "text" in prints else None
        if text is not None and (other := self._similar_text(text)) is not None:
            return "near duplicate text", other
        if digest is not None:
            self._exact[digest] = key
        if picture is not None:
            self._pictures.add(picture, key)
        if text is not None:
            self._minhashes[key] = text
            self._texts.insert(key, text)
        return None

    def _similar_text(self, text: Any) -> str | None:
        """The kept text that the estimate calls alike, of several the first by key; the index gives candidates."""
        threshold = self._settings.text_similarity
        assert threshold is not None
        alike = (key for key in self._texts.query(text) if self._minhashes[key].jaccard(text) >= threshold)
        return min(alike, default=None)


class _NearHashes:
    """Kept 64-bit hashes, searched by Hamming distance: two that differ in at most d bits agree in one of d + 1 parts
    of their bits."""

    def __init__(self, distance: int) -> None:
        self._distance = distance
        cuts = [HASH_BITS * part // (distance + 1) for part in range(distance + 2)]
        self._parts = [(start, (1 << (stop - start)) - 1) for start, stop in zip(cuts, cuts[1:], strict=False)]
        self._tables: list[dict[int, list[tuple[int, str]]]] = [defaultdict(list) for _ in self._parts]

    def find(self, value: int) -> str | None:
        for table, (start, mask) in zip(self._tables, self._parts, strict=True):
            for other, key in table.get(value >> start & mask, ()):
                if (value ^ other).bit_count() <= self._distance:
                    return key
        return None

    def add(self, value: int, key: str) -> None:
        for table, (start, mask) in zip(self._tables, self._parts, strict=True):
            table[value >> start & mask].append((value, key))


def _perceptual_hash(picture: bytes) -> str:
    with Image.open(io.BytesIO(picture)) as image:
        return str(_imagehash().phash(image))


def _minhash(text: str) -> str:
    minhash = _datasketch().MinHash(num_perm=MINHASH_VALUES, scheme=MINHASH_SCHEME)
    words = text.lower().split()
    runs = {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))}
    minhash.update_batch([run.encode() for run in sorted(runs)])
    return base64.b64encode(minhash.hashvalues.astype("<u4").tobytes()).decode()


def _decode_minhash(text: str) -> Any:
    values = np.frombuffer(base64.b64decode(text), dtype="<u4")
    return _datasketch().MinHash(num_perm=MINHASH_VALUES, hashvalues=values, scheme=MINHASH_SCHEME)


def _text_index(threshold: float) -> Any:
    return _datasketch().MinHashLSH(threshold=threshold, num_perm=MINHASH_VALUES)


def _datasketch() -> Any:
    return load_extra("datasketch", "build", "duplicates.text_similarity")


def check_duplicates(settings: DuplicateSettings) -> None:
    """Raises MissingExtraError for a library that is not installed."""
    if settings.picture_distance is not None:
        _imagehash()
    if settings.text_similarity is not None:
        _datasketch()


def _imagehash() -> Any:
    return load_extra("imagehash", "build", "duplicates.picture_distance")
