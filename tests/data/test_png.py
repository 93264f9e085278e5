"""The fast way to pixels gives those of Pillow, and leaves everything that is not plain to it.

Run: pytest tests/data/test_png.py
"""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data_pipelines.sources import picture
from data_pipelines.sources.picture import decode_picture
from data_pipelines.sources.png import decode_plain, plain_size

pytest.importorskip("pyspng")

PIXELS = np.random.default_rng(0).integers(256, size=(6, 7, 3), dtype=np.uint8)
EXIF = Image.Exif()
EXIF[0x0112] = 6  # on its side
COMMENT = PngInfo()
COMMENT.add_text("by", "nobody")


def png(mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, format="PNG", **options)
    return buffer.getvalue()


WHOLE = png()


@pytest.mark.parametrize(
    "options", [{}, {"compress_level": 0}, {"optimize": True}, {"pnginfo": COMMENT}, {"dpi": (9, 9)}]
)
def test_plain_pictures_take_the_fast_way(options: dict[str, Any]) -> None:
    payload = png(**options)
    assert plain_size(payload) == (6, 7)
    assert np.array_equal(decode_plain(payload), PIXELS)
    assert np.array_equal(decode_picture(payload), PIXELS)


OTHERS = {
    "grey": png("L"),
    "palette": png("P"),
    "alpha": png("RGBA"),
    "one colour is transparent": png(transparency=tuple(PIXELS[0, 0].tolist())),
    "turned": png(exif=EXIF),
    "moving": png(save_all=True, append_images=[Image.fromarray(PIXELS[::-1])]),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_all_others_are_left_to_pillow(kind: str) -> None:
    payload = OTHERS[kind]
    assert plain_size(payload) is None
    assert decode_picture(payload).shape == ((7, 6, 3) if kind == "turned" else (6, 7, 3))
    if kind == "one colour is transparent":
        assert decode_picture(payload)[0, 0].tolist() == [255, 255, 255]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255), st.booleans())
def test_no_damage_is_taken_for_a_picture(at: int, bits: int, cut: bool) -> None:
    payload = WHOLE[:at] if cut else WHOLE[:at] + bytes([WHOLE[at] ^ bits]) + WHOLE[at + 1 :]
    assert plain_size(payload) is None
    try:
        assert decode_picture(payload).shape[-1] == 3  # another kind, as far as Pillow can tell
    except ValueError as error:
        assert "not a readable picture" in str(error)


def test_pixels_that_cannot_be_inflated_are_refused() -> None:
    """Every checksum of the file is right, what lies in it is not."""
    start = WHOLE.index(b"IDAT")
    body = b"IDAT" + bytes(range(40))
    broken = WHOLE[: start - 4] + (40).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big") + WHOLE[-12:]
    assert plain_size(broken) == (6, 7) and decode_plain(broken) is None
    with pytest.raises(ValueError, match="not a readable picture"):
        decode_picture(broken)


def test_a_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "MAX_PICTURE_PIXELS", 41)
    monkeypatch.setattr(picture, "decode_plain", lambda _: pytest.fail("inflated"))
    with pytest.raises(ValueError, match="7x6 pixels are more than 41"):
        decode_picture(WHOLE)
