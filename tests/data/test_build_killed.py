"""A build of any kind, killed by kill -9 wherever it is, ends with the bytes of one that was left alone.

Run: pytest tests/data/test_build_killed.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from build_sources import (
    build,
    build_killed_at,
    encoded,
    kill_when,
    picture,
    run_unimodel,
    settings,
    start_unimodel,
    tone,
    write_build_file,
    write_film,
    write_sound,
    write_stories,
)
from gymnasium.spaces import Box
from lerobot_folders import CAMERA, write_lerobot
from minari_folders import drifting, write_minari
from recorded_data import contents

from data_pipelines.build.build import build_dataset
from data_pipelines.sources import audio_files, image_folder, lerobot, minari, video_files

SMALL: dict[str, Any] = {"splits": {"test": 0.3}, "shards": {"max_samples": 3}, "duplicates": {"exact": False}}
KINDS = ("images", "tables", "audio", "video", "webdataset", "huggingface", "minari", "lerobot")


def make_source(kind: str, folder: Path) -> dict[str, Any]:
    """A source of some blocks under `folder`, as a build file says it."""
    folder.mkdir()
    return (make_episodes if kind in ("minari", "lerobot") else make_files)(kind, folder)


def make_files(kind: str, folder: Path) -> dict[str, Any]:
    source: dict[str, Any] = {"kind": kind, "path": str(folder)}
    match kind:
        case "images":
            for seed in range(8):
                (folder / f"{seed}.png").write_bytes(encoded(picture(seed)))
        case "tables":
            write_stories(folder / "stories.jsonl", 12)
            source |= {"columns": {"text": "text"}, "rows_per_block": 3}
        case "audio":
            for number in range(4):
                write_sound(folder / f"{number}.flac", tone(0.5, 8000, hertz=200 + number), 8000, "flac")
            source |= {"piece_seconds": 0.2, "sound": {"rate": 16000}}
        case "video":
            for number in range(3):
                write_film(folder / f"{number}.mkv", frames=20 + number)
            source |= {"piece_seconds": 0.5, "size": [16, 16]}
        case "webdataset":
            for tar in range(4):
                with webdataset.TarWriter(str(folder / f"{tar}.tar"), mtime=0) as writer:
                    for sample in range(3):
                        writer.write({"__key__": f"{tar}{sample}", "png": encoded(picture(10 * tar + sample))})
        case "huggingface":
            import datasets

            rows = {"text": [f"row {number}" for number in range(10)]}
            datasets.Dataset.from_dict(rows).save_to_disk(str(folder / "saved"))
            source = {"kind": kind, "dataset": str(folder / "saved"), "columns": {"text": "text"}, "rows_per_block": 3}
    return source


def make_episodes(kind: str, folder: Path) -> dict[str, Any]:
    if kind == "lerobot":
        write_lerobot(folder, "v3.0")
        return {"kind": kind, "path": str(folder), "camera": CAMERA, "max_frames": 6, "action_codes": 5}
    rng = np.random.default_rng(0)
    box, episodes = drifting([rng.normal(size=(6, 2)) for _ in range(3)])
    with pytest.MonkeyPatch.context() as patch:
        path = write_minari(folder, patch, box, Box(-9, 9, (2,), np.float64), episodes)
    return {"kind": kind, "path": str(path), "max_frames": 4, "action_codes": 3}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One file or episode a block, so that there is something between the blocks."""
    for module in (image_folder, audio_files, video_files):
        monkeypatch.setattr(module, "BLOCK_FILES", 1)
    for module in (minari, lerobot):
        monkeypatch.setattr(module, "BLOCK_EPISODES", 1)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_its_writes(kind: str, tmp_path: Path) -> None:
    """A child is killed by kill -9 at its n-th fsync, again and again, until one lives to the end."""
    source = make_source(kind, tmp_path / "source")
    build(tmp_path / "whole", source, **SMALL)
    wanted = settings(tmp_path / "data", source, **SMALL)
    killed = [build_killed_at(number, wanted) for number in (1, 2, 3, 5, 4, 6, 2, 7, 8, 3, 1, 1000)]
    assert sum(killed) >= 5
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")


def test_killed_once_anywhere(tmp_path: Path) -> None:
    source = make_source("tables", tmp_path / "source")
    build(tmp_path / "whole", source, **SMALL)
    whole, number = contents(tmp_path / "whole"), 1
    while build_killed_at(number, wanted := settings(tmp_path / str(number), source, **SMALL)):
        build_dataset(wanted, processes=1)
        assert contents(wanted.folder) == whole, f"killed at write {number}"
        number += 9  # of a file and of its folder in turn
    assert contents(wanted.folder) == whole and number > 40


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_real_command_killed_in_both_passes(kind: str, processes: int, tmp_path: Path) -> None:
    source = make_source(kind, tmp_path / "source")
    write_build_file(tmp_path / "whole.yaml", tmp_path / "whole", source, **SMALL)
    write_build_file(tmp_path / "build.yaml", tmp_path / "data", source, **SMALL)
    assert run_unimodel("data", "build", tmp_path / "whole.yaml", "--processes", 1)[0] == 0
    command = ("data", "build", tmp_path / "build.yaml", "--processes", processes)
    for mark in (".build/parts", ".build/parts/part-000000.json", "train/train-000000.tar", "README.md"):
        kill_when(start_unimodel(*command), tmp_path / "data" / mark)
    status, _, errors = run_unimodel(*command)
    assert (status, errors) == (0, "")
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")
