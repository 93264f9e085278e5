from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.sources import picture
from data_pipelines.sources.episode import Episode, decode_episode, encode_episode

ARRAYS = ("frames", "actions", "rewards", "done", "poses")


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    steps, height, width = draw(st.integers(0, 5)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return Episode(
        key="sample-1",
        frames=rng.integers(0, 256, (steps + 1, height, width, 3), dtype=np.uint8),
        actions=rng.integers(0, 7, steps),
        rewards=rng.normal(size=steps).astype(np.float32),
        done=rng.random(steps) < 0.5,
        poses=rng.integers(-3, 9, (steps + 1, 3)),
        mission=draw(st.text(max_size=20)),
        captions=tuple(draw(st.lists(st.text(max_size=9), min_size=steps + 1, max_size=steps + 1))),
        environment="Some-v0",
        seed=draw(st.integers(0, 2**60)),
        num_actions=7,
    )


@settings(max_examples=40, deadline=None)
@given(episodes())
def test_an_episode_survives_the_round_trip(episode: Episode) -> None:
    fields = encode_episode(episode)
    assert fields == encode_episode(episode)
    back = decode_episode("sample-1", fields)
    for name in ARRAYS:
        original, returned = getattr(episode, name), getattr(back, name)
        assert returned.dtype == original.dtype and np.array_equal(returned, original)
    for name in ("key", "mission", "captions", "environment", "seed", "num_actions"):
        assert getattr(back, name) == getattr(episode, name)


def example() -> Episode:
    return Episode(
        key="sample-1",
        frames=np.zeros((3, 8, 8, 3), np.uint8),
        actions=np.array([1, 2]),
        rewards=np.zeros(2, np.float32),
        done=np.zeros(2, bool),
        poses=np.zeros((3, 3), np.int64),
        mission="go",
        captions=("a", "b", "c"),
        environment="Some-v0",
        seed=1,
        num_actions=7,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"actions": np.array([1, 9])},
        {"rewards": np.zeros(3, np.float32)},
        {"done": np.zeros(2, np.uint8)},
        {"poses": np.zeros((2, 3), np.int64)},
        {"frames": np.zeros((3, 8, 8, 1), np.uint8)},
        {"captions": ("a",)},
    ],
)
def test_an_inconsistent_episode_is_refused_by_name(change: dict) -> None:
    with pytest.raises(ValueError, match=f"sample-1.*{next(iter(change))}"):
        replace(example(), **change)


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"\x89", b"", png(8, 24)[:48], png(8, 25), b"BM" + bytes(60)])
def test_an_undecodable_image_names_sample_field_and_cure(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"sample-1: field frames\.png: .*data verify"):
        decode_episode("sample-1", encode_episode(example()) | {"frames.png": content})


def test_a_huge_image_is_refused_before_it_is_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = encode_episode(example())
    monkeypatch.setattr(picture, "MAX_PICTURE_PIXELS", 3 * 8 * 8 - 1)
    monkeypatch.setattr(picture, "decode_plain", lambda _: pytest.fail("inflated"))
    monkeypatch.setattr(picture, "_decode", lambda _: pytest.fail("inflated"))
    with pytest.raises(ValueError, match="8x24 pixels are more than 191"):
        decode_episode("sample-1", fields)


@pytest.mark.parametrize(
    ("field", "content"),
    [
        ("actions.npy", b"\x93NUMPY"),
        ("actions.npy", b"\x80\x04K\x01."),  # a pickle is never loaded
        ("json", b"{"),
        ("json", b"[]"),
        ("json", b'{"mission": 3}'),
    ],
)
def test_a_damaged_field_is_named(field: str, content: bytes) -> None:
    with pytest.raises(ValueError, match=f"sample-1: field {field}"):
        decode_episode("sample-1", encode_episode(example()) | {field: content})


def test_a_missing_field_is_named() -> None:
    fields = encode_episode(example())
    del fields["poses.npy"]
    with pytest.raises(ValueError, match=r"sample-1: field poses\.npy is missing"):
        decode_episode("sample-1", fields)
