"""Opens sound and film files of strangers with PyAV: known formats only, no file or address that a file may name."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, BinaryIO

from data_pipelines.extras import load_extra
from data_pipelines.sources.picture import MAX_PICTURE_PIXELS

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg")
DEMUXERS = "wav,w64,flac,mp3,ogg,aac,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg"
"""Playlists and scripts (hls, concat, dash) are not among them: they would open other files."""
UNKNOWN_RIFF_BYTES = 1 << 31
MISSING_SECONDS = 1.0
MISSING_FRACTION = 0.05


@contextmanager
def open_media(file: BinaryIO) -> Iterator[Any]:
    """A PyAV container, decoding on one thread. Raises ValueError for all that goes wrong in the file, also within the
    block."""
    av = pyav()
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    try:
        with av.open(file, "r", options=options, metadata_errors="replace") as container:
            for stream in (*container.streams.audio, *container.streams.video):
                stream.codec_context.thread_count = 1
            yield container
        _check_riff(file)
    except av.FFmpegError as error:
        raise ValueError(f"not readable ({type(error).__name__}: {error.strerror})") from None


def _check_riff(file: BinaryIO) -> None:
    """A wav file says how long it is; FFmpeg takes what is there. Raises ValueError when it is cut off."""
    file.seek(0)
    header = file.read(8)
    promised = int.from_bytes(header[4:], "little") + len(header)
    size = file.seek(0, io.SEEK_END)
    # Writers of streams leave the size at its largest value.
    if header[:4] == b"RIFF" and size < promised < UNKNOWN_RIFF_BYTES:
        raise ValueError(f"cut off: {size} of {promised} bytes are there")


def check_whole(stream: Any, container: Any, seconds: float) -> None:
    """Raises ValueError when much less came out of a file than it says it has: it is cut off."""
    if stream.duration is not None:
        promised = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        promised = container.duration / 1_000_000
    else:
        return
    if promised - seconds > max(MISSING_SECONDS, MISSING_FRACTION * promised):
        raise ValueError(f"cut off: {seconds:.1f} of {promised:.1f} seconds are there")


def frame_time(decoded: Any) -> Fraction:
    """Seconds at which a decoded frame is shown. Raises ValueError for one that is damaged, too large or without a
    time."""
    if decoded.is_corrupt:
        raise ValueError("a frame is damaged")
    check_frame_size(decoded)
    if decoded.pts is None:
        raise ValueError("a frame has no time stamp")
    return decoded.pts * decoded.time_base


def check_frame_size(frame: Any) -> None:
    """Raises ValueError for a frame, or a decoder of frames, of too many pixels."""
    if frame.width * frame.height > MAX_PICTURE_PIXELS:
        raise ValueError(f"frames of {frame.width}x{frame.height} pixels are more than {MAX_PICTURE_PIXELS}")


def pyav() -> Any:
    """The module. Raises MissingExtraError when it is not installed."""
    return load_extra("av", "media", "reading or writing sound and films")
