"""What a build file may say: a source, what is kept of it, and the folder of shards that it becomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from data_pipelines.settings import Fraction, Settings
from data_pipelines.sources.settings import Source

NonNegative = Annotated[float, Field(ge=0.0)]
NOT_IN_THE_BYTES = ("folder", "max_unreadable_fraction")
"""Settings that may differ when a build continues: the samples do not depend on them."""


class SplitSettings(Settings):
    """Shares of the samples that are held out, chosen by a hash of the key: a sample stays in its split whatever is
    added to the source. Pieces of one file share a split."""

    validation: Fraction = 0.0
    test: Fraction = 0.0

    @model_validator(mode="after")
    def _something_to_train_on(self) -> SplitSettings:
        if self.validation + self.test > 1:
            raise ValueError(f"validation ({self.validation}) and test ({self.test}) are more than everything")
        return self


class ShardSettings(Settings):
    """A shard ends before it has more than this."""

    max_samples: PositiveInt = 10_000
    max_megabytes: PositiveInt = 512


class FilterSettings(Settings):
    """A sample is dropped when it has the property and is outside the bounds; none bounds nothing."""

    min_characters: PositiveInt | None = None
    """Of the text or caption; also drops samples without one."""
    max_characters: PositiveInt | None = None
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of the text or caption, as `py3langid` tells them; short captions are often mistaken."""
    min_side: PositiveInt | None = None
    """Shorter side of a picture or frame, pixels."""
    max_aspect: Annotated[float, Field(ge=1.0)] | None = None
    """Longer side of a picture over its shorter one."""
    min_seconds: NonNegative | None = None
    """Of sound or film."""
    max_seconds: NonNegative | None = None
    min_frames: PositiveInt | None = None
    max_frames: PositiveInt | None = None


class DuplicateSettings(Settings):
    """Of samples that are alike, anywhere in the source, the first is kept."""

    exact: bool = True
    """Equal bytes of picture, sound, film or actions; of the text where there is none of these."""
    picture_distance: Annotated[int, Field(ge=0, le=16)] | None = None
    """Pictures are alike when at most so many of the 64 bits of their perceptual hash (pHash) differ; 4 is usual."""
    text_similarity: Annotated[float, Field(ge=0.5, lt=1.0)] | None = None
    """Texts (without picture, sound or film) are alike when the MinHash estimate of the share of common five-word
    runs is at least this; 0.8 is usual."""


class BuildSettings(Settings):
    """A build file (`unimodel data build`)."""

    folder: Path
    """The folder of shards to make."""
    origin: str
    """Where the data comes from, for people: a web address or a name. It goes into every sample and the card."""
    license: str
    """The licence of the data, as the Hub names it, such as cc-by-4.0; `other` or `unknown` when that is so."""
    languages: tuple[str, ...] = ()
    """ISO 639 codes of the texts, for the card."""
    source: Source
    splits: SplitSettings = SplitSettings()
    shards: ShardSettings = ShardSettings()
    filters: FilterSettings = FilterSettings()
    duplicates: DuplicateSettings = DuplicateSettings()
    max_unreadable_fraction: Fraction = 0.1
    """The build stops when a larger share of the items cannot be read: then the source or the settings are wrong."""

    def in_the_bytes(self) -> dict[str, Any]:
        """The settings that the samples depend on, as plain JSON values."""
        values = json.loads(self.model_dump_json())
        return {name: value for name, value in values.items() if name not in NOT_IN_THE_BYTES}

    @property
    def provenance(self) -> dict[str, str]:
        """What every sample's `json` says of where it comes from."""
        return {"source": self.origin, "license": self.license}
