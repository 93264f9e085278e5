"""A folder of films, cut into pieces of frames and sound.

Frames are taken at a steady rate: frame k shows what is on the screen at second k / frames_per_second. A piece ends
when it is full or, with `cut: shots`, where the picture changes at once.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from data_pipelines.sources.files import caption_beside, file_blocks, list_files, open_inside
from data_pipelines.sources.film_frames import FilmFrames, pixels
from data_pipelines.sources.item import UNREADABLE, Block, Dropped, EncodedSample, encode_about, safe_key
from data_pipelines.sources.media import VIDEO_SUFFIXES, open_media, pyav
from data_pipelines.sources.settings import VideoSource
from data_pipelines.sources.sound import SoundTrack, encode_flac

BLOCK_FILES = 16
BLOCK_BYTES = 1 << 28
JPEG_QUALITY = 90
THUMBNAIL = (16, 16)


def list_video(source: VideoSource) -> list[Block]:
    """Blocks of films. Raises MissingExtraError when PyAV is not installed."""
    pyav()
    files = list_files(source.path, VIDEO_SUFFIXES)
    return file_blocks(source.path, files, max_files=BLOCK_FILES, max_bytes=BLOCK_BYTES)


def read_video(source: VideoSource, provenance: dict[str, Any], block: Block) -> Iterator[EncodedSample | Dropped]:
    """The pieces of every film; where a film breaks off, its whole pieces and what is wrong."""
    for name in block.place["files"]:
        yield from _file_pieces(source, provenance, name)


def _file_pieces(source: VideoSource, provenance: dict[str, Any], name: str) -> Iterator[EncodedSample | Dropped]:
    group, where = safe_key(name.rpartition(".")[0]), name
    try:
        caption = caption_beside(source.path, name)
        with ExitStack() as stack:
            # Pictures and sound are read side by side, each through a container of its own.
            frames = FilmFrames(stack.enter_context(open_inside(source.path, name)), source.frames_per_second)
            sound = _sound_track(source, stack, stack.enter_context(open_inside(source.path, name)), frames.origin)
            pictures = (pixels(decoded, source.size) for _, decoded in frames)
            for number, (start, piece) in enumerate(_pieces(source, pictures)):
                sample = _sample(source, piece, start, sound)
                about = {"file": name, "start_second": start / source.frames_per_second, **sample.about}
                if caption:
                    sample.fields["txt"], sample.lengths["text"] = caption, len(caption)
                sample.fields["json"] = encode_about(provenance | about)
                label = f"{name} from second {about['start_second']:g}"
                yield EncodedSample(f"{group}-{number:05d}", label, sample.fields, sample.lengths, group)
                where = f"{name} from second {(start + len(piece)) / source.frames_per_second:g}"
    except ValueError as error:
        yield Dropped(where, UNREADABLE, str(error))


class _Piece:
    """Fields, lengths and `json` entries of one piece, being put together."""

    def __init__(self) -> None:
        self.fields: dict[str, bytes] = {}
        self.lengths: dict[str, Any] = {}
        self.about: dict[str, Any] = {}


def _sample(source: VideoSource, frames: list[np.ndarray], start: int, track: SoundTrack | None) -> _Piece:
    piece = _Piece()
    jpeg = io.BytesIO()
    Image.fromarray(np.concatenate(frames)).save(jpeg, format="JPEG", quality=JPEG_QUALITY)
    piece.fields["frames.jpg"] = jpeg.getvalue()
    piece.lengths = {"frames": len(frames), "size": source.size}
    piece.about = {"num_frames": len(frames), "frames_per_second": source.frames_per_second}
    if source.sound is not None and track is not None:
        rate = source.sound.rate
        first, stop = (round(frame * rate / source.frames_per_second) for frame in (start, start + len(frames)))
        sound = track.take(first, stop - first)
        if sound is not None:
            piece.fields["sound.flac"], piece.lengths["sound"] = encode_flac(sound, rate), len(sound)
    piece.about["sound_rate"] = source.sound.rate if source.sound is not None and "sound" in piece.lengths else None
    return piece


def _pieces(source: VideoSource, frames: Iterator[np.ndarray]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(number of the first frame, frames) of every piece."""
    piece: list[np.ndarray] = []
    previous: np.ndarray | None = None
    start = 0
    for frame in frames:
        thumbnail = _thumbnail(frame) if source.cut == "shots" else None
        begins = previous is not None and thumbnail is not None and _differ(previous, thumbnail, source.shot_difference)
        if piece and (begins or len(piece) == source.piece_frames):
            yield start, piece
            start, piece = start + len(piece), []
        piece.append(frame)
        previous = thumbnail
    if piece:
        yield start, piece


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize(THUMBNAIL, Image.Resampling.BOX), dtype=np.float32) / 255


def _differ(one: np.ndarray, other: np.ndarray, threshold: float) -> bool:
    return float(np.abs(one - other).mean()) > threshold


def _sound_track(source: VideoSource, stack: ExitStack, file: BinaryIO, origin: float) -> SoundTrack | None:
    if source.sound is None:
        return None
    container = stack.enter_context(open_media(file))
    return SoundTrack(container, source.sound, origin) if container.streams.audio else None
