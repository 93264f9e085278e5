"""The sheet of samples: a page complete in itself that shows pictures, plays sounds and names what cannot be read.

Run: pytest tests/data/test_sample_sheet.py
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_sample import TONE, picture

from data_pipelines.shards.index import Manifest, write_manifest
from data_pipelines.shards.stats import dataset_stats
from data_pipelines.shards.writer import write_shard
from data_pipelines.sources.sample_sheet import write_sample_sheet
from data_pipelines.sources.sound import encode_flac, to_pcm

SAMPLES = {
    "photo": {"jpg": picture(40, 60, "JPEG")[1], "txt": b"a <b>bold</b> caption"},
    "tone": {"flac": encode_flac(to_pcm(TONE), 16000), "txt": b"a tone"},
    "film": {
        "frames.jpg": picture(4 * 16, 16, "JPEG")[1],
        "sound.flac": encode_flac(to_pcm(TONE), 8000),
        "json": b'{"num_frames": 4, "frames_per_second": 4}',
        "txt": b"noise",
    },
    "story": {"txt": b"once upon a time"},
    "broken": {"png": b"x", "txt": b"one byte"},
}
LENGTHS = {"photo": {"text": 21, "size": [40, 60]}, "story": {"text": 16}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [(key, fields, LENGTHS.get(key, {})) for key, fields in SAMPLES.items()]
    write_manifest(tmp_path / "data", Manifest((write_shard(tmp_path / "data" / "a.tar", rows),), {}))
    return tmp_path / "data"


def test_every_kind_of_sample_is_on_the_page(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "sheet.html"
    write_sample_sheet(folder, page)
    text = page.read_text(encoding="utf-8")
    assert all(key in text for key in SAMPLES)
    assert text.count("data:image/png;base64,") == 1 + 4, "one picture, four frames"
    assert text.count("<audio") == text.count("data:audio/flac;base64,") == 2
    assert "sample broken: field png: not a readable picture" in text
    assert "a &lt;b&gt;bold&lt;/b&gt; caption" in text, "captions are text"
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text), "nothing from outside"
    write_sample_sheet(folder, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_recorded_episodes_are_strips_of_frames(recorded: Path, tmp_path: Path) -> None:
    write_sample_sheet(recorded, tmp_path / "sheet.html", samples_per_split=2)
    text = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert text.count("<article") == 2 * text.count("<h2>") and "agent facing" in text


def test_codes_have_no_sheet(folder: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    shutil.copytree(folder, tokens)
    write_manifest(tokens, Manifest((), {"kind": "tokenised samples"}))
    with pytest.raises(ValueError, match="holds codes of samples"):
        write_sample_sheet(tokens, tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_stats_tell_the_lengths_of_the_index(folder: Path) -> None:
    (stats,) = dataset_stats(folder).values()
    assert stats["samples"] == 5
    assert stats["lengths"]["text"] == {"samples": 2, "total": 37, "min": 16, "median": 18.5, "mean": 18.5, "max": 21}
    assert stats["lengths"]["size"]["total"] == 100 and np.isfinite(stats["lengths"]["size"]["mean"])
