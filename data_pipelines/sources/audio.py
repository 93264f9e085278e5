"""Sound: FLAC in shards, and whatever PyAV reads from outside.

Arrays are float32 [samples, channels] in [-1, 1]. FLAC keeps 16 bits, so what was written once stays as it is.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import av as pyav

FULL_SCALE = 32767
MAX_AUDIO_SAMPLES = 1 << 28
"""Longest sound that is decoded, samples of all channels (1 GiB as float32): a hostile file cannot ask for more."""
LAYOUTS = {1: "mono", 2: "stereo"}


def encode_flac(audio: np.ndarray, rate: int) -> bytes:
    """FLAC bytes of float [samples, 1 or 2 channels]; equal sounds give equal bytes."""
    av = _pyav()
    samples, channels = audio.shape
    if not samples or channels not in LAYOUTS:
        raise ValueError(f"a sound of {samples} samples and {channels} channels cannot be written: one or two channels")
    pcm = (np.clip(np.nan_to_num(audio), -1, 1) * FULL_SCALE).round().astype(np.int16)
    frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout=LAYOUTS[channels])
    frame.sample_rate = rate
    output = io.BytesIO()
    with av.open(output, "w", format="flac", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("flac", rate=rate, layout=LAYOUTS[channels], format="s16")
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= int(av.codec.context.Flags.bitexact)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return output.getvalue()


def decode_audio(payload: bytes) -> tuple[np.ndarray, int]:
    """(float32 [samples, channels], samples per second) of any audio file or the first sound track of a film.

    Raises ValueError for what is not readable, has no sound, or is longer than MAX_AUDIO_SAMPLES.
    """
    av = _pyav()
    parts: list[np.ndarray] = []
    rate = total = 0
    try:
        with av.open(io.BytesIO(payload), metadata_errors="replace") as container:
            if not container.streams.audio:
                raise ValueError("it has no sound")
            for frame in container.decode(audio=0):
                part = _samples(frame)
                if parts and (frame.sample_rate != rate or part.shape[1] != parts[0].shape[1]):
                    raise ValueError("its rate or number of channels changes in the middle")
                rate = frame.sample_rate
                parts.append(part)
                total += part.size
                if total > MAX_AUDIO_SAMPLES:
                    raise ValueError(f"it is longer than {MAX_AUDIO_SAMPLES} samples")
    except (av.FFmpegError, UnicodeError, EOFError) as error:
        raise ValueError(f"the sound cannot be decoded ({error})") from None
    if not parts or not rate:
        raise ValueError("it has no samples")
    return np.concatenate(parts), rate


def _samples(frame: pyav.AudioFrame) -> np.ndarray:
    """float32 [samples, channels] of one decoded frame."""
    channels = frame.layout.nb_channels
    array = frame.to_ndarray()
    array = array.T if frame.format.is_planar else array.reshape(-1, channels)
    if array.dtype == np.uint8:
        return ((array.astype(np.float32) - 128) / 127).clip(-1, 1)
    if array.dtype.kind == "i":
        return (array / float(2 ** (8 * array.dtype.itemsize - 1) - 1)).astype(np.float32)
    return array.astype(np.float32)


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise ValueError("sound and films need PyAV: pip install 'unimodel[media]'") from None
    return av
