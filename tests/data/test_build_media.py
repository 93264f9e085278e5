"""Sound and film: what comes out of a build is what went in, piece by piece, and damage is named.

Run: pytest tests/data/test_build_media.py
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_sources import build, decoded_sound, dropped, film_frame, settings, tone, write_film, write_sound
from PIL import Image
from recorded_data import contents

from data_pipelines.build.build import build_dataset
from data_pipelines.extras import MissingExtraError


def strip_frames(fields: dict[str, bytes]) -> np.ndarray:
    """uint8 [frames, height, width, 3]"""
    frames = json.loads(fields["json"])["num_frames"]
    strip = np.asarray(Image.open(io.BytesIO(fields["frames.jpg"])))
    return strip.reshape(frames, -1, *strip.shape[1:])


def test_sound_files_are_cut_into_pieces_that_join_to_the_whole(tmp_path: Path) -> None:
    folder = tmp_path / "sounds"
    folder.mkdir()
    sound = tone(2.5, 16000)
    write_sound(folder / "a.wav", sound, 16000, "pcm_s16le")
    write_sound(folder / "b.flac", tone(1.5, 16000, channels=2), 16000, "flac")
    (folder / "a.txt").write_text("a tone")
    source = {"kind": "audio", "path": str(folder), "piece_seconds": 1.0, "sound": {"rate": 16000}}
    found = build(tmp_path / "data", source, duplicates={"exact": False})
    assert list(found) == ["a-00000", "a-00001", "a-00002", "b-00000", "b-00001"]
    pieces = [decoded_sound(found[f"a-0000{n}"][0]["flac"])[0] for n in range(3)]
    assert [len(piece) for piece in pieces] == [16000, 16000, 8000]
    assert np.array_equal(np.concatenate(pieces), sound), "FLAC of the same rate loses nothing"
    fields, lengths = found["a-00002"]
    assert lengths == {"sound": [8000], "text": [6]} and fields["txt"] == b"a tone"
    about = json.loads(fields["json"])
    assert (about["seconds"], about["sound_rate"], about["start_second"], about["file"]) == (0.5, 16000, 2.0, "a.wav")
    assert "txt" not in found["b-00000"][0] and found["b-00001"][1] == {"sound": [8000]}


@pytest.mark.parametrize(("name", "codec", "rate"), [("a.mp3", "libmp3lame", 22050), ("a.opus", "libopus", 48000)])
def test_other_formats_are_resampled_and_keep_their_pitch(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    (tmp_path / "sounds").mkdir()
    write_sound(tmp_path / "sounds" / name, tone(2.0, rate, hertz=440), rate, codec)
    source = {"kind": "audio", "path": str(tmp_path / "sounds"), "piece_seconds": None}
    source["sound"] = {"rate": 8000, "channels": 2}
    ((key, (fields, lengths)),) = build(tmp_path / "data", source).items()
    sound, found_rate = decoded_sound(fields["flac"])
    assert (key, found_rate, sound.shape[1], lengths["sound"]) == ("a", 8000, 2, [len(sound)])
    assert abs(len(sound) / 8000 - 2.0) < 0.1  # coders add and remove a few hundredths of a second
    spectrum = np.abs(np.fft.rfft(sound[:, 0]))
    assert abs(spectrum.argmax() * 8000 / len(sound) - 440) < 2


def test_sounds_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "sounds"
    folder.mkdir()
    write_sound(folder / "good.wav", tone(1.0, 8000), 8000, "pcm_s16le")
    wav = (folder / "good.wav").read_bytes()
    (folder / "none.wav").write_bytes(wav[:44])
    (folder / "cut.wav").write_bytes(wav[: 44 + 2 * 4800])
    (folder / "junk.mp3").write_bytes(b"nothing at all" * 50)
    (folder / "list.mp3").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{folder}/good.wav\n#EXT-X-ENDLIST\n"
    )
    (folder / "latin.wav").write_bytes(wav)
    (folder / "latin.txt").write_bytes(b"\xff\xfe\xfd")
    source = {"kind": "audio", "path": str(folder), "piece_seconds": 0.5, "sound": {"rate": 8000}}
    found = build(tmp_path / "data", source, max_unreadable_fraction=0.9, duplicates={"exact": False})
    assert set(found) == {"good-00000", "good-00001", "cut-00000"}
    lost = dropped(tmp_path / "data")
    assert lost.keys() == {"none.wav", "cut.wav from second 0.5", "junk.mp3", "list.mp3", "latin.wav"}
    assert "cut off" in lost["cut.wav from second 0.5"][1] and "latin.txt" in lost["latin.wav"][1]


def test_a_film_becomes_strips_at_the_chosen_rate_with_its_sound(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    write_film(tmp_path / "films/one.mkv", frames=40, rate=10)
    (tmp_path / "films/one.txt").write_text("red, then blue")
    source: dict[str, Any] = {"kind": "video", "path": str(tmp_path / "films"), "piece_seconds": 1.6}
    source |= {"frames_per_second": 5.0, "size": [24, 32], "sound": {"rate": 8000}}
    found = build(tmp_path / "data", source)
    assert list(found) == ["one-00000", "one-00001", "one-00002"]
    frames = [strip_frames(fields) for fields, _ in found.values()]
    assert [len(piece) for piece in frames] == [8, 8, 4]
    shown = np.concatenate(frames).mean((1, 2))
    expected = np.array([film_frame(2 * k)[0, 0] for k in range(20)])
    assert np.abs(shown - expected).max() < 5  # H.264 and JPEG at these settings; neighbours differ by 8
    fields, lengths = found["one-00001"]
    assert lengths == {"frames": [8], "size": [24, 32], "sound": [12800], "text": [14]}
    about = json.loads(fields["json"])
    assert (about["num_frames"], about["frames_per_second"], about["sound_rate"]) == (8, 5.0, 8000)
    assert (about["file"], about["start_second"]) == ("one.mkv", 1.6)
    sound = np.concatenate([decoded_sound(fields["sound.flac"])[0] for fields, _ in found.values()])
    assert len(sound) == 32000
    loud = np.abs(sound[:, 0].astype(int))
    assert loud[:7900].max() < 100 and loud[8100:31900].reshape(-1, 100).max(1).min() > 8000, "it begins at second 1"


def test_shots_begin_new_pieces(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    write_film(tmp_path / "films/two.mp4", frames=40, rate=10, sound_rate=None)
    source: dict[str, Any] = {"kind": "video", "path": str(tmp_path / "films"), "cut": "shots", "piece_seconds": 1.5}
    source |= {"frames_per_second": 10.0, "size": [24, 32]}
    found = build(tmp_path / "data", source)
    starts = [json.loads(fields["json"])["start_second"] for fields, _ in found.values()]
    assert starts == [0.0, 1.5, 2.0, 3.5], "full after 1.5 seconds, and the cut at frame 20"
    assert all(
        "sound.flac" not in fields and json.loads(fields["json"])["sound_rate"] is None for fields, _ in found.values()
    )
    assert build(tmp_path / "length", source | {"cut": "length"}).keys() == {f"two-0000{n}" for n in range(3)}


def test_broken_films_are_named_and_pieces_before_the_damage_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    write_film(folder / "whole.mkv", frames=60)
    content = (folder / "whole.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    (folder / "head.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(1000))
    (folder / "byte.avi").write_bytes(b"R")
    write_sound(folder / "sound.flac", tone(1.0, 8000), 8000, "flac")
    (folder / "sound.flac").rename(folder / "sound.mkv")
    source: dict[str, Any] = {"kind": "video", "path": str(folder), "piece_seconds": 1.0, "frames_per_second": 4.0}
    changes: dict[str, Any] = {"max_unreadable_fraction": 1.0, "duplicates": {"exact": False}}
    found = build(tmp_path / "data", source | {"size": [16, 16]}, **changes)
    lost = dropped(tmp_path / "data")
    assert lost.keys() - {name for name in lost if name.startswith("cut.mkv from")} == {
        "head.mp4",
        "byte.avi",
        "sound.mkv",
    }
    assert lost["sound.mkv"][1] == "it has no picture"
    assert [key for key in found if key.startswith("whole")] == [f"whole-0000{n}" for n in range(6)]
    assert 1 <= sum(key.startswith("cut") for key in found) <= 4


def test_pieces_of_a_film_share_a_split_and_two_processes_change_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for number in range(20):
        (folder / f"f{number}.mkv").symlink_to(folder / f"{number % 2}.real")
    for number in range(2):
        write_film(folder / "x.mkv", frames=20 + 5 * number)
        (folder / "x.mkv").rename(folder / f"{number}.real")
    source: dict[str, Any] = {"kind": "video", "path": str(folder), "piece_seconds": 0.5, "size": [16, 16]}
    changes: dict[str, Any] = {"splits": {"test": 0.5}, "duplicates": {"exact": False}}
    found = build(tmp_path / "one", source, **changes)
    splits = {split: {key.rpartition("-")[0] for key in _keys(tmp_path / "one" / split)} for split in ("train", "test")}
    assert splits["train"] and splits["test"] and not splits["train"] & splits["test"]
    assert len(found) == 10 * 4 + 10 * 5
    assert build_dataset(settings(tmp_path / "two", source, **changes), processes=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def _keys(folder: Path) -> list[str]:
    from data_pipelines.shards.reader import ShardReader

    reader = ShardReader(folder)
    return [reader.key(number) for number in range(len(reader))]


def test_a_strip_taller_than_a_jpeg_is_refused_in_the_build_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a piece of 600 frames of 256 pixels is taller than a JPEG can be"):
        settings(tmp_path / "data", {"kind": "video", "path": "films", "piece_seconds": 60, "frames_per_second": 10.0})


def test_without_pyav_the_package_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds/a.wav").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=r"pip install 'unimodel\[media\]'"):
        build(tmp_path / "data", {"kind": "audio", "path": str(tmp_path / "sounds")})
    assert not (tmp_path / "data").exists()


def test_without_pyav_the_sounds_of_a_table_are_not_taken_for_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "rows.jsonl").write_text('{"sound": "a.wav"}\n')
    (tables / "a.wav").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'unimodel\[media\]'"):
        build(tmp_path / "data", {"kind": "tables", "path": str(tables), "columns": {"audio": "sound"}})
