"""What is kept of a source, sample by sample."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from data_pipelines.build.settings import FilterSettings
from data_pipelines.extras import load_extra
from data_pipelines.sources.item import Dropped, EncodedSample


def check_filters(filters: FilterSettings) -> None:
    """Raises ValueError for a language that is not known, MissingExtraError for a library that is not installed."""
    if filters.languages:
        known = _identifier().labels
        if unknown := [code for code in filters.languages if code not in known]:
            raise ValueError(f"filters.languages: '{unknown[0]}' is not known; known: {', '.join(sorted(known))}")


def reason_to_drop(sample: EncodedSample, filters: FilterSettings) -> Dropped | None:
    """Why a sample is not kept; None when it is."""
    for reason, found, least, most in _measures(sample, filters):
        if (least is not None and found < least) or (most is not None and found > most):
            return Dropped(sample.name, reason, f"{found:g} is not within {_bounds(least, most)}")
    if filters.languages and "txt" in sample.fields:
        language = _identifier().classify(sample.fields["txt"].decode())[0]
        if language not in filters.languages:
            return Dropped(sample.name, "language", f"{language} is none of {', '.join(filters.languages)}")
    return None


_Measure = tuple[str, float, float | None, float | None]


def _measures(sample: EncodedSample, filters: FilterSettings) -> list[_Measure]:
    """(reason, value, least, most) of everything the sample has that could be bounded."""
    characters = len(sample.fields.get("txt", b"").decode())
    measures: list[_Measure] = [("characters", characters, filters.min_characters, filters.max_characters)]
    if "size" in sample.lengths:
        height, width = sample.lengths["size"]  # pyright: ignore[reportGeneralTypeIssues]
        measures.append(("side", min(height, width), filters.min_side, None))
        measures.append(("aspect", max(height, width) / max(1, min(height, width)), None, filters.max_aspect))
    if "frames" in sample.lengths:
        frames = sample.lengths["frames"]
        assert isinstance(frames, int)
        measures.append(("frames", frames, filters.min_frames, filters.max_frames))
    if filters.min_seconds is not None or filters.max_seconds is not None:
        seconds = _seconds(sample)
        if seconds is not None:
            measures.append(("seconds", seconds, filters.min_seconds, filters.max_seconds))
    return measures


def _seconds(sample: EncodedSample) -> float | None:
    about = json.loads(sample.fields.get("json", b"{}"))
    about = about if isinstance(about, dict) else {}
    frames, rate = about.get("num_frames"), about.get("frames_per_second")
    if isinstance(frames, int) and isinstance(rate, int | float) and rate > 0:
        return frames / rate
    seconds = about.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else None


def _bounds(least: float | None, most: float | None) -> str:
    return f"{'..' if least is None else f'{least:g}'} - {'..' if most is None else f'{most:g}'}"


@cache
def _identifier() -> Any:
    langid = load_extra("py3langid.langid", "build", "filters.languages")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
