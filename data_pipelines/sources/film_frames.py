"""The frames of a film with their times: all of them, or what is on the screen at a steady rate."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
from PIL import ImageOps
from PIL.Image import Resampling

from data_pipelines.sources.media import check_frame_size, check_whole, frame_time, open_media

MAX_GAP_SECONDS = 60
"""Longest time that one frame may stand: a damaged time stamp would ask for frames without end."""


class FilmFrames:
    """(seconds from the first frame, decoded frame) of the first picture track, once; `pixels` makes a picture of one.

    `frames_per_second` None gives every frame. `origin` is the time of the first one, seconds. Raises ValueError when
    there is none or the track breaks off.
    """

    def __init__(self, file: BinaryIO, frames_per_second: float | None) -> None:
        self._steps = self._decode(file, frames_per_second)
        self.origin = float(next(self._steps)[0])

    def __iter__(self) -> Iterator[tuple[Fraction, Any]]:
        return self._steps

    def _decode(self, file: BinaryIO, frames_per_second: float | None) -> Iterator[tuple[Fraction, Any]]:
        """The time of the first frame, then frames with their times from it."""
        rate = None if frames_per_second is None else Fraction(frames_per_second).limit_denominator(1001)
        count, shown, origin, last = 0, None, Fraction(0), Fraction(0)
        with open_media(file) as container:
            if not container.streams.video:
                raise ValueError("it has no picture")
            stream = container.streams.video[0]
            check_frame_size(stream.codec_context)
            for decoded in container.decode(stream):
                time = frame_time(decoded)
                if shown is None:
                    origin = time
                    yield origin, None
                elif time <= last:
                    continue
                elif time - last > MAX_GAP_SECONDS:
                    raise ValueError(f"nothing is shown between seconds {float(last):.1f} and {float(time):.1f}")
                while rate is not None and shown is not None and count / rate < time - origin:
                    yield count / rate, shown
                    count += 1
                if rate is None:
                    yield time - origin, decoded
                shown, last = decoded, time
            if shown is None:
                raise ValueError("it has no frames")
            end = last - origin + (1 / stream.average_rate if stream.average_rate else 1 / rate if rate else 0)
            check_whole(stream, container, float(end))
            while rate is not None and count / rate < end:
                yield count / rate, shown
                count += 1


def pixels(decoded: Any, size: tuple[int, int] | None) -> np.ndarray:
    """uint8 [height, width, 3] of a decoded frame, scaled to cover `size`, if any, what stands out cut off evenly."""
    image = decoded.to_image()
    if decoded.rotation:
        image = image.rotate(decoded.rotation, expand=True)
    if size is not None:
        height, width = size
        image = ImageOps.fit(image, (width, height), Resampling.BICUBIC)
    return np.asarray(image)
