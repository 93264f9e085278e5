"""Lengths of a sample's fields from their first bytes: no pixel and no sound is decoded."""

from __future__ import annotations

import json

from data_pipelines.shards.table import Lengths
from data_pipelines.sources.fields import PICTURE_FIELDS, STRIP_FIELDS, TRACK_FIELD, first_of
from data_pipelines.sources.picture import picture_size

MAX_LENGTH = (1 << 32) - 1


def measure(fields: dict[str, bytes]) -> Lengths:
    """`size`, `frames`, `sound` and `text` of what can be told; what cannot has no length."""
    lengths: dict[str, int | tuple[int, int]] = {}
    if "txt" in fields:
        lengths["text"] = len(fields["txt"])
    for name in ("flac", TRACK_FIELD):
        if name in fields and (samples := flac_samples(fields[name])):
            lengths["sound"] = samples
    picture, strip = (fields.get(first_of(names, fields) or "") for names in (PICTURE_FIELDS, STRIP_FIELDS))
    frames = _num_frames(fields.get("json", b"")) if strip is not None else 0
    if frames:
        lengths["frames"] = frames
    if (payload := picture if picture is not None else strip) is not None and (size := picture_size(payload)):
        lengths["size"] = size if picture is not None or not frames else (size[0] // frames, size[1])
    return lengths


def flac_samples(payload: bytes) -> int:
    """Samples per channel by the STREAMINFO block that every FLAC file begins with; 0 when unknown."""
    if payload[:4] != b"fLaC" or len(payload) < 26:
        return 0
    samples = int.from_bytes(payload[21:26], "big") & ((1 << 36) - 1)
    return samples if samples <= MAX_LENGTH else 0


def _num_frames(about: bytes) -> int:
    try:
        values = json.loads(about)
    except (ValueError, RecursionError):
        return 0
    frames = values.get("num_frames") if isinstance(values, dict) else None
    return frames if isinstance(frames, int) and 0 < frames <= MAX_LENGTH else 0
