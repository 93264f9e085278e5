"""Every kind of source is built from real files, read back and compared; what cannot be read is named.

Run: pytest tests/data/test_build_sources.py
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_sources import build, dropped, encoded, picture, settings, tone, write_sound
from PIL import Image
from recorded_data import contents

from data_pipelines.build.build import build_dataset
from data_pipelines.sources.item import safe_key


def photos(folder: Path) -> dict[str, Any]:
    """Pictures in all formats, some of which must be re-encoded, with captions beside."""
    folder.mkdir()
    (folder / "sub").mkdir()
    for seed, name in enumerate(("a.png", "b.jpg", "c.webp", "sub/a.jpeg")):
        kind = {"png": "PNG", "webp": "WEBP"}.get(name.rpartition(".")[2], "JPEG")
        (folder / name).write_bytes(encoded(picture(seed), kind))
        (folder / name).with_suffix(".txt").write_text(f"picture {seed}\n")
    (folder / "grey.bmp").write_bytes(encoded(picture(10).convert("L"), "BMP"))
    (folder / "grey.json").write_text(json.dumps({"caption": "grau wie Gänse"}))
    (folder / "clear.png").write_bytes(encoded(Image.new("RGBA", (8, 6), (255, 0, 0, 0))))
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "turned.jpg").write_bytes(encoded(picture(11, 20, 30), "JPEG", exif=exif))
    return {"kind": "images", "path": str(folder)}


def pixels(payload: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(payload)))


def test_pictures_keep_their_bytes_or_their_pixels(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    found = build(tmp_path / "data", source)
    assert found.keys() == {"a", "b", "c", safe_key("sub/a"), "grey", "clear", "turned"}
    assert "Samples differ in their fields" in (tmp_path / "data/README.md").read_text()
    for key, field, name in (("a", "png", "a.png"), ("b", "jpg", "b.jpg"), ("c", "webp", "c.webp")):
        fields, lengths = found[key]
        assert fields[field] == (tmp_path / "photos" / name).read_bytes(), "original bytes"
        assert lengths["size"] == [40, 48] and lengths["text"] == [len(fields["txt"])]
    nested, _ = found[safe_key("sub/a")]
    assert nested["txt"] == b"picture 3"
    assert json.loads(nested["json"]) == {"file": "sub/a.jpeg", "license": "cc0-1.0", "source": "a test"}
    grey, _ = found["grey"]
    assert np.array_equal(pixels(grey["png"]), np.asarray(picture(10).convert("L")))
    assert grey["txt"].decode() == "grau wie Gänse"
    assert (pixels(found["clear"][0]["png"]) == 255).all(), "what is transparent lies on white"
    turned, lengths = found["turned"]
    assert lengths["size"] == [30, 20] and pixels(turned["png"]).shape == (30, 20, 3)


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    folder = tmp_path / "photos"
    (folder / "byte.png").write_bytes(b"x")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:300])
    (folder / "bomb.png").write_bytes(_bomb())
    (folder / "latin.png").write_bytes(encoded(picture(20)))
    (folder / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (folder / "a.jpg").write_bytes(encoded(picture(21), "JPEG"))
    (tmp_path / "secret.png").write_bytes(encoded(picture(22)))
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    found = build(tmp_path / "data", source, max_unreadable_fraction=0.9)
    lost = dropped(tmp_path / "data")
    assert {name: reason for name, (reason, _) in lost.items()} == {
        "byte.png": "unreadable",
        "cut.png": "unreadable",
        "bomb.png": "unreadable",
        "latin.png": "unreadable",
        "out.png": "unreadable",
        "gone.png": "unreadable",
        "a.png": "same key",
    }
    assert "DecompressionBomb" in lost["bomb.png"][1]
    assert "latin.txt: the text is not UTF-8 (byte 3)" in lost["latin.png"][1]
    assert "leads out of the source folder" in lost["out.png"][1]
    assert len(found) == 7


def _bomb() -> bytes:
    """A PNG of 60,000 x 50,000 pixels in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 50000, 1, 0, 0, 0, 0)
    image = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", image) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.csv"])
def test_captions_from_one_table(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(encoded(picture(seed)))
    rows = [("0.png", "zero, or none"), ("2.png", "two")]
    if name.endswith("csv"):
        (folder / name).write_text("file_name,text\n" + "".join(f'{file},"{text}"\n' for file, text in rows))
    else:
        (folder / name).write_text("".join(json.dumps({"file_name": f, "text": t}) + "\n" for f, t in rows))
    source = {"kind": "images", "path": str(folder), "captions": name, "picture_format": "png"}
    found = build(tmp_path / "data", source)
    assert {key: fields.get("txt") for key, (fields, _) in found.items()} == {
        "0": b"zero, or none",
        "1": None,
        "2": b"two",
    }
    (folder / name).write_text('{"file_name": "0.png"}\n' if name.endswith("jsonl") else "file_name,text\n0.png\n")
    with pytest.raises(ValueError, match="row 1: it needs file_name"):
        build(tmp_path / "other", source)


def test_near_duplicates_and_filters_name_what_they_drop(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(6):
        (folder / f"p{seed}.png").write_bytes(encoded(picture(seed)))
    (folder / "q-near.jpg").write_bytes(encoded(picture(2), "JPEG", quality=95))
    (folder / "q-same.png").write_bytes(encoded(picture(3)))
    (folder / "small.png").write_bytes(encoded(picture(30, 8, 9)))
    (folder / "wide.png").write_bytes(encoded(picture(31, 20, 90)))
    source = {"kind": "images", "path": str(folder)}
    changes = {"filters": {"min_side": 10, "max_aspect": 4.0}, "duplicates": {"picture_distance": 4}}
    found = build(tmp_path / "one", source, **changes)
    assert found.keys() == {f"p{seed}" for seed in range(6)}
    assert {name: (reason, detail) for name, (reason, detail) in dropped(tmp_path / "one").items()} == {
        "q-near.jpg": ("near duplicate picture", "of p2.png"),
        "q-same.png": ("exact duplicate", "of p3.png"),
        "small.png": ("side", "8 is not within 10 - .."),
        "wide.png": ("aspect", "4.5 is not within .. - 4"),
    }


def test_texts_by_language_and_likeness_with_any_number_of_processes(tmp_path: Path) -> None:
    long = (
        "the quick brown fox jumps over the lazy dog while the old cat sleeps on the warm roof of the red house".split()
    )
    texts = [
        " ".join(long),
        "Die Katze schläft auf dem warmen Dach des alten Hauses und träumt von einer Maus",
        " ".join([*long, "again"]),
        "Ships sail slowly across the wide and quiet ocean towards a distant harbour in the north",
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = {"kind": "tables", "path": str(tmp_path / "t.jsonl"), "columns": {"text": "text"}, "rows_per_block": 1}
    changes = {"filters": {"languages": ["en"]}, "duplicates": {"text_similarity": 0.7}}
    found = build(tmp_path / "one", source, **changes)
    assert [fields["txt"].decode() for fields, _ in found.values()] == [texts[0], texts[3]]
    assert dropped(tmp_path / "one") == {
        "t.jsonl, row 1": ("language", "de is none of en"),
        "t.jsonl, row 2": ("near duplicate text", "of t.jsonl, row 0"),
    }
    assert build_dataset(settings(tmp_path / "two", source, **changes), processes=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_rows_of_parquet_with_bytes_pairs_and_paths(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [encoded(picture(seed)) for seed in range(5)]
    (tmp_path / "rows/img").mkdir(parents=True)
    (tmp_path / "rows/img/2.png").write_bytes(images[2])
    write_sound(tmp_path / "x.wav", tone(0.5, 16000), 16000, "pcm_s16le")
    pairs = [
        {"bytes": images[0], "path": None},
        {"bytes": images[1], "path": "1.png"},
        {"bytes": None, "path": "img/2.png"},
    ]
    pairs += [{"bytes": None, "path": "../x.wav"}, {"bytes": images[4], "path": None}]
    wav = (tmp_path / "x.wav").read_bytes()
    table = pa.table({"image": pairs, "words": list("vwxyz"), "sound": [wav] * 4 + [wav[:44]], "n": range(5)})
    pq.write_table(table, tmp_path / "rows/part.parquet", row_group_size=2)
    columns = {"image": "image", "text": "words", "audio": "sound", "id": "n", "keep": ["n"]}
    source = {"kind": "tables", "path": str(tmp_path / "rows"), "columns": columns, "sound": {"rate": 8000}}
    found = build(tmp_path / "data", source, max_unreadable_fraction=0.5, duplicates={"exact": False})
    assert [fields["png"] for fields, _ in found.values()] == images[:3]
    fields, lengths = found["1"]
    assert fields["txt"] == b"w" and lengths == {"size": [40, 48], "sound": [4000], "text": [1]}
    about = json.loads(fields["json"])
    assert (about["n"], about["row"], about["file"], about["sound_rate"], about["seconds"]) == (
        1,
        1,
        "part.parquet",
        8000,
        0.5,
    )
    lost = dropped(tmp_path / "data")
    assert "leads out of the source folder" in lost["part.parquet, row 3"][1]
    assert lost["part.parquet, row 4"][0] == "unreadable"
    with pytest.raises(ValueError, match="has no column 'caption'; it has image, n, sound, words"):
        build(tmp_path / "other", source | {"columns": {"text": "caption"}})


@pytest.mark.parametrize("place", ["saved to disk", "streamed"])
def test_a_hugging_face_dataset(tmp_path: Path, place: str) -> None:
    import datasets

    images = [encoded(picture(seed)) for seed in range(7)]
    rows = {"image": [{"bytes": image, "path": None} for image in images], "caption": [f"c{n}" for n in range(7)]}
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    dataset = datasets.Dataset.from_dict(rows, features=features)
    columns = {"image": "image", "text": "caption"}
    if place == "streamed":
        for shard in range(2):
            dataset.shard(2, shard, contiguous=True).to_parquet(str(tmp_path / f"pq/{shard}.parquet"))
        source = {"kind": "huggingface", "dataset": "parquet", "data_files": [str(tmp_path / "pq/*.parquet")]}
    else:
        dataset.save_to_disk(str(tmp_path / "saved"))
        source = {"kind": "huggingface", "dataset": str(tmp_path / "saved"), "rows_per_block": 3}
    found = build(tmp_path / "data", source | {"columns": columns}, shards={"max_samples": 4})
    assert [fields["png"] for fields, _ in found.values()] == images
    assert [fields["txt"].decode() for fields, _ in found.values()] == rows["caption"]
    with pytest.raises(ValueError, match="no column 'text'; it has caption, image"):
        build(tmp_path / "other", source | {"columns": {"text": "text"}})


def test_keys_are_safe_and_the_same_whatever_else_there_is() -> None:
    assert safe_key("cat_01-b") == "cat_01-b"
    names = ["a.b", "a b", "a/b", "a:b", "..", "", "ä", "x" * 200, "x" * 201]
    keys = [safe_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(key.replace("-", "").replace("_", "").isalnum() and len(key) <= 64 for key in keys)
