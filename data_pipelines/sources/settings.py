"""What a build file may say of its source, one group of settings per kind of source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from data_pipelines.settings import PositiveFloat, Settings
from data_pipelines.sources.picture import MAX_PICTURE_PIXELS, PictureFormat

MAX_JPEG_PIXELS = 65500
"""Tallest JPEG that Pillow writes: a strip of frames must fit."""


class SoundSettings(Settings):
    """How sound is kept: FLAC of 16 bits."""

    rate: Annotated[int, Field(ge=1000, le=192_000)] = 24_000
    """Samples per second; other rates are resampled."""
    channels: Literal[1, 2] = 1


class Columns(Settings):
    """Which column of a table is what; a sample has those that are named."""

    image: str | None = None
    """Encoded pictures, {"bytes", "path"} pairs, or names of files below source.path."""
    text: str | None = None
    audio: str | None = None
    """As `image`, of sound files."""
    id: str | None = None
    """Keys are made from it, from file and row number otherwise. It must be unique."""
    keep: tuple[str, ...] = ()
    """Copied into the sample's `json`."""

    @property
    def names(self) -> list[str]:
        """All columns that are read."""
        return [name for name in (self.image, self.text, self.audio, self.id, *self.keep) if name]

    @model_validator(mode="after")
    def _something_to_learn(self) -> Columns:
        if not (self.image or self.text or self.audio):
            raise ValueError("name at least one column: image, text or audio")
        return self


class ImagesSource(Settings):
    """A folder of pictures; captions stand beside (same stem, .txt, or .json with "caption" or "text")."""

    kind: Literal["images"]
    path: Path
    captions: str | None = None
    """A table inside the folder instead: .jsonl or .csv with the columns file_name and caption or text."""
    picture_format: PictureFormat = "keep"
    """`png` re-encodes every picture, so that all samples have the same fields (`datasets` wants that)."""


class TablesSource(Settings):
    """Files of rows: .jsonl and .parquet, one file or a folder of them."""

    kind: Literal["tables"]
    path: Path
    columns: Columns
    rows_per_block: PositiveInt = 1000
    """Rows that one process reads in one go (JSON lines; Parquet has row groups)."""
    picture_format: PictureFormat = "keep"
    sound: SoundSettings = SoundSettings()


class HuggingFaceSource(Settings):
    """A dataset that the `datasets` library loads: from the Hub, a folder or files. It runs no code of a dataset."""

    kind: Literal["huggingface"]
    dataset: str
    """A name on the Hub, a folder (also of `save_to_disk`), or a format such as parquet together with data_files."""
    configuration: str | None = None
    revision: str | None = None
    """A commit: without it the Hub gives what is newest."""
    split: str = "train"
    data_files: tuple[str, ...] = ()
    columns: Columns
    rows_per_block: PositiveInt = 1000
    """Rows that one process reads in one go from a dataset on this disk; a streamed one is read by its shards."""
    picture_format: PictureFormat = "keep"
    sound: SoundSettings = SoundSettings()


class AudioSource(Settings):
    """Sound files, cut into pieces, with captions beside as for pictures."""

    kind: Literal["audio"]
    path: Path
    piece_seconds: PositiveFloat | None = 30.0
    """Longest piece; none cuts nothing."""
    sound: SoundSettings = SoundSettings()


class VideoSource(Settings):
    """Films with their sound, cut into pieces, with captions beside as for pictures."""

    kind: Literal["video"]
    path: Path
    cut: Literal["length", "shots"] = "length"
    """`shots` also begins a new piece wherever the picture changes at once."""
    piece_seconds: PositiveFloat = 8.0
    """Longest piece."""
    shot_difference: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """A shot begins where two neighbouring frames, shrunk to 16x16 pixels, differ by more than this: the mean over
    pixels and colours, 1 from black to white. Fades are not found."""
    frames_per_second: PositiveFloat = 4.0
    size: tuple[PositiveInt, PositiveInt] = (256, 256)
    """[height, width] of a frame, pixels: scaled to cover it, what stands out is cut off evenly."""
    sound: SoundSettings | None = SoundSettings()
    """None leaves the sound out."""

    @property
    def piece_frames(self) -> int:
        return max(1, round(self.piece_seconds * self.frames_per_second))

    @model_validator(mode="after")
    def _strip_fits(self) -> VideoSource:
        if self.piece_frames * self.size[0] > MAX_JPEG_PIXELS:
            raise ValueError(
                f"a piece of {self.piece_frames} frames of {self.size[0]} pixels is taller than a JPEG can be "
                f"({MAX_JPEG_PIXELS}): lower piece_seconds, frames_per_second or size"
            )
        return self


class WebDatasetSource(Settings):
    """A folder of tars in WebDataset form, made elsewhere."""

    kind: Literal["webdataset"]
    path: Path
    max_member_megabytes: PositiveInt = 1024
    """A larger member is dropped."""
    prefix_keys: bool = False
    """Put the tar's name before every key, for tars that each count from 0; the second of a key is dropped else."""
    picture_format: PictureFormat = "keep"
    sound: SoundSettings = SoundSettings()


class EpisodesSource(Settings):
    """A folder of episodes with their actions, made elsewhere."""

    path: Path
    max_frames: Annotated[int, Field(ge=2)] = 64
    """Longer episodes are cut into windows of so many frames; neighbouring windows share a frame."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """[height, width] of a frame, pixels: scaled to cover it, what stands out is cut off evenly. None keeps
    them."""
    action_codes: Annotated[int, Field(ge=2, le=4096)] = 64
    """Actions that are vectors become one of at most so many, which k-means chooses."""

    def check_frame(self, height: int, width: int) -> None:
        """Raises ValueError when a window of such frames, or of `size`, is more than a picture may be."""
        height, width = self.size or (height, width)
        if self.max_frames * height * width > MAX_PICTURE_PIXELS:
            raise ValueError(
                f"{self.max_frames} frames of {height}x{width} are more than {MAX_PICTURE_PIXELS} pixels: lower "
                "source.max_frames or source.size"
            )


class MinariSource(EpisodesSource):
    """A Minari dataset: the folder that holds `data`."""

    kind: Literal["minari"]
    observation: str | None = None
    """Which observation is the picture, where they are a dictionary; `a/b` in one within another."""


class LeRobotSource(EpisodesSource):
    """A LeRobot dataset (v2.1 or v3.0): the folder that holds `meta`, `data` and `videos`."""

    kind: Literal["lerobot"]
    camera: str
    """As `meta/info.json` calls it, such as observation.images.top."""
    action: str = "action"
    """The column of the actions."""


class VideoActionsSource(EpisodesSource):
    """Films of somebody acting, each with a table of the actions beside it: clip.mp4 and clip.csv.

    Columns: `step` (the number of the frame on the screen, from 0) or `time_seconds`; `action`, a name or a whole
    number; and `reward` and `done`, where they are known. By `step` there is a row for every frame, and for the last if
    you like; by time an action holds until the next row. A caption beside (.txt, .json) is the mission.
    """

    kind: Literal["video_actions"]
    frames_per_second: PositiveFloat | None = None
    """Frames are taken at this rate, and steps count those; None takes every frame of the film."""


Source = Annotated[
    ImagesSource
    | TablesSource
    | HuggingFaceSource
    | AudioSource
    | VideoSource
    | WebDatasetSource
    | MinariSource
    | LeRobotSource
    | VideoActionsSource,
    Field(discriminator="kind"),
]
