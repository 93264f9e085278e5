"""Sound as FLAC of a chosen rate: whole, or piece by piece without holding more than a piece in memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from data_pipelines.sources.media import check_whole, open_media, pyav
from data_pipelines.sources.settings import SoundSettings

LAYOUTS = {1: "mono", 2: "stereo"}
MIN_RATE = 1000
FULL_SCALE = 32767
MAX_SOUND_SAMPLES = 1 << 28
"""Longest sound that becomes one sample, samples of all channels (512 MiB)."""


def to_pcm(sound: np.ndarray) -> np.ndarray:
    """float in [-1, 1] to int16 of the same shape."""
    return (np.clip(np.nan_to_num(sound), -1, 1) * FULL_SCALE).round().astype(np.int16)


def decode_sound(payload: bytes) -> tuple[np.ndarray, int]:
    """(float32 [samples, channels] in [-1, 1], samples per second) of a sound file, as it is.

    Raises ValueError when it cannot be read, has no sound or is longer than MAX_SOUND_SAMPLES.
    """
    parts: list[np.ndarray] = []
    rate = total = 0
    with open_media(io.BytesIO(payload)) as container:
        if not container.streams.audio:
            raise ValueError("it has no sound")
        for frame in container.decode(container.streams.audio[0]):
            part = _samples(frame)
            if parts and (frame.sample_rate != rate or part.shape[1] != parts[0].shape[1]):
                raise ValueError("its rate or number of channels changes in the middle")
            rate, total = frame.sample_rate, total + part.size
            if total > MAX_SOUND_SAMPLES:
                raise ValueError(f"longer than {MAX_SOUND_SAMPLES} samples")
            parts.append(part)
    if not parts or not rate:
        raise ValueError("it has no samples")
    return np.concatenate(parts), rate


def _samples(frame: Any) -> np.ndarray:
    """float32 [samples, channels] of a decoded frame."""
    array = frame.to_ndarray()
    array = array.T if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels)
    if array.dtype == np.uint8:
        return ((array.astype(np.float32) - 128) / 127).clip(-1, 1)
    if array.dtype.kind == "i":
        return (array / float(2 ** (8 * array.dtype.itemsize - 1) - 1)).astype(np.float32)
    return array.astype(np.float32)


def encode_flac(sound: np.ndarray, rate: int) -> bytes:
    """FLAC of int16 [samples, channels]; equal sounds give equal bytes."""
    av = pyav()
    layout = LAYOUTS[sound.shape[1]]
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound).reshape(1, -1), format="s16", layout=layout)
    frame.sample_rate, frame.pts = rate, 0
    output = io.BytesIO()
    with av.open(output, "w", format="flac", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream(
            "flac", rate=rate, layout=layout, format="s16", options={"flags": "+bitexact"}
        )
        stream.codec_context.thread_count = 1
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return output.getvalue()


def read_whole_sound(payload: bytes, settings: SoundSettings) -> tuple[bytes, int]:
    """(FLAC, number of samples) of a whole sound file. Raises ValueError when it cannot be read or has no sound."""
    with open_media(io.BytesIO(payload)) as container:
        parts = list(sound_parts(container, settings, MAX_SOUND_SAMPLES))
    sound = np.concatenate(parts)
    return encode_flac(sound, settings.rate), len(sound)


def sound_pieces(file: BinaryIO, settings: SoundSettings, seconds: float | None) -> Iterator[tuple[int, np.ndarray]]:
    """(first sample, int16 [samples, channels]) of every piece, the last one as long as it is.

    Raises ValueError when the file cannot be read to its end; the pieces before stay good.
    """
    size = MAX_SOUND_SAMPLES // settings.channels if seconds is None else max(1, round(seconds * settings.rate))
    limit = MAX_SOUND_SAMPLES if seconds is None else None
    start = 0
    buffer = np.zeros((0, settings.channels), np.int16)
    with open_media(file) as container:
        pending: list[np.ndarray] = []
        have = 0
        for part in sound_parts(container, settings, limit):
            pending.append(part)
            have += len(part)
            if have < size:
                continue
            buffer = np.concatenate(pending)
            while len(buffer) >= size:
                yield start, buffer[:size]
                start, buffer = start + size, buffer[size:]
            pending, have = [buffer], len(buffer)
    rest = np.concatenate(pending) if pending else buffer
    if len(rest):
        yield start, rest


def sound_parts(container: Any, settings: SoundSettings, limit: int | None = None) -> Iterator[np.ndarray]:
    """int16 [samples, channels] of the first sound track, resampled, decoded frame by decoded frame.

    Raises ValueError when there is no sound, it is cut off, or it has more than `limit` samples of all channels.
    """
    if not container.streams.audio:
        raise ValueError("it has no sound")
    stream = container.streams.audio[0]
    resampler = pyav().AudioResampler(format="s16", layout=LAYOUTS[settings.channels], rate=settings.rate)
    total = 0
    for frame in _with_end(container.decode(stream)):
        if frame is not None:
            if frame.sample_rate < MIN_RATE:  # resampled, a small file would become an endless one
                raise ValueError(f"{frame.sample_rate} samples per second are fewer than {MIN_RATE}")
            frame.pts = None  # gaps and jumps in time would upset the resampler: the samples follow each other
        for made in resampler.resample(frame):
            part = made.to_ndarray().reshape(-1, settings.channels)
            total += len(part)
            if limit is not None and total * settings.channels > limit:
                raise ValueError(f"longer than {limit} samples: cut it into pieces")
            yield part
    if not total:
        raise ValueError("it has no samples")
    check_whole(stream, container, total / settings.rate)


def _with_end(frames: Iterator[Any]) -> Iterator[Any]:
    """None at the end asks the resampler for what it still holds."""
    seen = False
    for frame in frames:
        seen = True
        yield frame
    if seen:
        yield None


class SoundTrack:
    """The sound of a film, taken piece by piece in the order of time.

    `origin` (seconds) is the time of the first picture: sample 0 is heard with it.
    """

    def __init__(self, container: Any, settings: SoundSettings, origin: float) -> None:
        self._channels = settings.channels
        self._parts = _aligned(container, settings, origin)
        self._buffer = np.zeros((0, settings.channels), np.int16)
        self._start = 0

    def take(self, start: int, count: int) -> np.ndarray | None:
        """int16 [count, channels] from sample `start` on, silence after the end; None when all of it is after the
        end. `start` never goes back."""
        pending, stop = [self._buffer], self._start + len(self._buffer)
        while stop < start + count:
            part = next(self._parts, None)
            if part is None:
                break
            pending.append(part)
            stop += len(part)
        sound = np.concatenate(pending)
        self._buffer, self._start = sound[max(0, start + count - self._start) :], min(stop, start + count)
        piece = sound[len(sound) - (stop - start) :][:count] if stop > start else sound[:0]
        if not len(piece):
            return None
        return np.concatenate([piece, np.zeros((count - len(piece), self._channels), np.int16)])


def _aligned(container: Any, settings: SoundSettings, origin: float) -> Iterator[np.ndarray]:
    """The parts of the track, with silence before or samples cut off so that it begins at `origin`."""
    stream = container.streams.audio[0]
    begins = 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base)
    offset = round((begins - origin) * settings.rate)
    if abs(offset) > MAX_SOUND_SAMPLES:
        raise ValueError(f"its sound begins {begins - origin:.0f} seconds away from its picture")
    if offset > 0:
        yield np.zeros((offset, settings.channels), np.int16)
    skip = max(0, -offset)
    for part in sound_parts(container, settings):
        yield part[skip:]
        skip = max(0, skip - len(part))
