"""Any shard's fields to a `Sample`: what it is follows from its fields, and what cannot be read is named.

Run: pytest tests/data/test_sample.py
"""

from __future__ import annotations

import io
import json
import wave

import numpy as np
import pytest
from PIL import Image

from data_pipelines.sources.sample import UNKNOWN_ACTION, decode_sample, decode_watched, squared
from data_pipelines.sources.sound import decode_sound, encode_flac, to_pcm

TONE = (np.sin(np.arange(8000) / 7) / 2).astype(np.float32)[:, None]


def picture(height: int, width: int, form: str = "PNG", seed: int = 0) -> tuple[np.ndarray, bytes]:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return pixels, file.getvalue()


def wav(samples: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes((TONE[:samples, 0] * 32767).astype("<i2").tobytes())
    return file.getvalue()


@pytest.mark.parametrize("field", ["txt", "json"])
def test_picture_with_caption(field: str) -> None:
    pixels, png = picture(5, 7)
    words = {"txt": b" a red box\n", "json": b'{"caption": "a red box", "source": "x"}'}
    sample = decode_sample("k", {"png": png, field: words[field]})
    assert (sample.frames == pixels[None]).all() and sample.captions == ("a red box",)
    assert not sample.audio.size and not len(sample.actions)


@pytest.mark.parametrize(("field", "form"), [("jpg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_grey_pictures_become_rgb(field: str, form: str) -> None:
    file = io.BytesIO()
    Image.new("L", (4, 3), 128).save(file, form)
    frames = decode_sample("k", {field: file.getvalue()}).frames
    assert frames.shape == (1, 3, 4, 3) and np.abs(frames.astype(int) - 128).max() <= 2


def test_pictures_of_other_makers_are_read_and_what_is_transparent_lies_on_white() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (4, 3), (255, 0, 0, 0)).save(file, "PNG")
    assert (decode_sample("k", {"png": file.getvalue()}).frames == 255).all()
    pixels, gif = picture(5, 7, "GIF")
    sample = decode_sample("k", {"gif": gif, "caption": b"spots"})
    assert sample.frames.shape == (1, *pixels.shape) and sample.captions == ("spots",)


def test_sound_and_text() -> None:
    sound = decode_sample("k", {"flac": encode_flac(to_pcm(TONE), 16000), "txt": "ein Ton, größer".encode()})
    assert (
        sound.audio_rate == 16000 and np.abs(sound.audio - TONE).max() < 1e-4 and sound.captions == ("ein Ton, größer",)
    )
    assert sound.num_frames == 1 and not sound.frames.size and sound.seconds_per_frame == 0
    assert decode_sample("k", {"wav": wav(800)}).audio.shape == (800, 1)
    text = decode_sample("k", {"txt": b"only words"})
    assert text.captions == ("only words",) and not text.frames.size and not text.audio.size


def test_film_with_sound() -> None:
    _, jpg = picture(4 * 8, 8, "JPEG")
    about = {"num_frames": 4, "frames_per_second": 8}
    fields = {
        "frames.jpg": jpg,
        "sound.flac": encode_flac(to_pcm(TONE[:4000]), 8000),
        "json": json.dumps(about).encode(),
    }
    film = decode_sample("k", fields | {"txt": b"waves"})
    assert film.frames.shape == (4, 8, 8, 3) and film.seconds_per_frame == 1 / 8 and len(film.audio) == 4000
    assert (film.actions == UNKNOWN_ACTION).all() and np.isnan(film.rewards).all() and film.mission == "waves"


def test_flac_is_kept_bit_for_bit() -> None:
    once = encode_flac(to_pcm(np.concatenate([TONE, -TONE], axis=1)), 44100)
    audio, rate = decode_sound(once)
    assert audio.shape == (8000, 2) and encode_flac(to_pcm(audio), rate) == once


BAD = {
    "1-byte PNG": ({"png": b"x", "txt": b"t"}, "field png: not a readable picture"),
    "cut PNG": ({"png": picture(64, 64)[1][:500]}, "field png: not a readable picture"),
    "wav without samples": ({"wav": wav(0)}, "field wav: it has no samples"),
    "cut flac": ({"flac": encode_flac(to_pcm(TONE), 8000)[:60]}, "field flac: "),
    "caption that is not UTF-8": ({"png": picture(4, 4)[1], "txt": b"caf\xe9"}, "field txt is not UTF-8"),
    "json that is none": ({"png": picture(4, 4)[1], "json": b"{"}, "field json cannot be read"),
    "nothing": ({"cls": b"3"}, "nothing to see, hear or read"),
    "film without a count": ({"frames.jpg": picture(4, 4, "JPEG")[1], "json": b"{}"}, "no valid num_frames"),
    "film of half frames": (
        {"frames.jpg": picture(5, 4, "JPEG")[1], "json": b'{"num_frames": 2, "frames_per_second": 1}'},
        "is not 2 frames",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_named(name: str) -> None:
    fields, message = BAD[name]
    with pytest.raises(ValueError, match=f"sample k: .*{message}"):
        decode_sample("k", fields)


def test_a_picture_that_would_fill_the_memory_is_refused_by_its_header() -> None:
    file = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(file, "PNG")
    assert len(file.getvalue()) < 200_000
    with pytest.raises(ValueError, match="field png: not a readable picture"):
        decode_sample("k", {"png": file.getvalue()})


def test_pictures_are_cut_to_the_middle_square() -> None:
    frames = np.zeros((2, 8, 24, 3), dtype=np.uint8)
    frames[:, :, 8:16] = 200
    assert squared(frames, 4).shape == (2, 4, 4, 3) and (squared(frames, 4) == 200).all()
    same = np.random.default_rng(0).integers(0, 256, size=(1, 4, 4, 3), dtype=np.uint8)
    assert squared(same, 4) is same
    nothing = np.zeros((1, 0, 0, 3), dtype=np.uint8)
    assert squared(nothing, 4) is nothing


def test_a_film_is_watched_as_an_episode_that_nobody_plays() -> None:
    strip, png = picture(12, 5)
    film = {"frames.png": png, "json": b'{"num_frames": 3, "frames_per_second": 2.0, "caption": "a walk"}'}
    episode = decode_watched("k", film)
    assert (episode.frames == strip.reshape(3, 4, 5, 3)).all() and episode.captions == ("a walk",) * 3
    assert episode.actions.tolist() == [UNKNOWN_ACTION] * 2 and np.isnan(episode.rewards).all()
    assert episode.environment == "" and episode.num_actions == 0
    with pytest.raises(ValueError, match="sample k: neither an episode nor a film"):
        decode_watched("k", {"txt": b"words"})
