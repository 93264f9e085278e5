"""Films with tables of actions: every action stands between the frames that it led from and to, and faults are named.

Run: pytest tests/data/test_build_video_actions.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_sources import build, dropped, settings, write_film
from recorded_data import contents

from data_pipelines.build.build import build_dataset
from data_pipelines.shards.index import read_manifest
from data_pipelines.shards.verify import verify_dataset
from data_pipelines.sources.action_table import read_action_table
from data_pipelines.sources.sample import Sample, decode_sample

FRAMES, RATE = 12, 10
NAMES = ("right", "jump", "left")


def source(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "video_actions", "path": str(folder), "max_frames": 5} | changes


def table(folder: Path, name: str, rows: list[str], header: str = "step,action,reward,done") -> None:
    (folder / name).write_text("\n".join([header, *rows]) + "\n")


def by_step(number: int = FRAMES, shift: int = 0) -> list[str]:
    return [f"{n},{NAMES[(n + shift) % 3]},{n / 4},{int(n == number - 1)}" for n in range(number)]


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Two films of 12 frames, ten a second, whose frames tell their number."""
    folder = tmp_path / "films"
    (folder / "level").mkdir(parents=True)
    for name in ("a.mp4", "level/b.mp4"):
        write_film(folder / name, frames=FRAMES, rate=RATE, sound_rate=None)
    table(folder, "a.csv", by_step())
    table(folder / "level", "b.csv", by_step(FRAMES - 1, shift=1))
    return folder


def windows(found: dict[str, tuple[dict[str, bytes], dict[str, Any]]], start: str) -> list[Sample]:
    return [decode_sample(key, fields) for key, (fields, _) in sorted(found.items()) if key.startswith(start)]


def steps(some: list[Sample], field: str) -> list[Any]:
    return np.concatenate([getattr(sample, field) for sample in some]).tolist()


def test_every_action_stands_between_its_frames(films: Path, tmp_path: Path) -> None:
    (films / "a.txt").write_text("reach the flag")
    found = build(tmp_path / "data", source(films))
    metadata = read_manifest(tmp_path / "data/train").metadata
    assert metadata["action_names"] == ["jump", "left", "right"] and metadata["num_actions"] == 3
    first, second = windows(found, "a-"), windows(found, "level_b-")
    assert [sample.num_frames for sample in first] == [5, 5, 4]
    whole = read_frames(films / "a.mp4")
    assert np.array_equal(np.concatenate([first[0].frames, *(s.frames[1:] for s in first[1:])]), whole)
    numbers = [metadata["action_names"].index(NAMES[n % 3]) for n in range(FRAMES)]
    assert steps(first, "actions") == numbers[:-1] and steps(second, "actions") == [*numbers[1:]]
    assert steps(first, "rewards") == [*(n / 4 for n in range(FRAMES - 2)), (2 * FRAMES - 3) / 4]
    assert steps(first, "done") == [False] * (FRAMES - 2) + [True], (
        "what the last row tells arrives with the last frame"
    )
    assert {sample.mission for sample in first} == {"reach the flag"} and {s.mission for s in second} == {""}
    about = json.loads(found[min(key for key in found if key.startswith("level_b"))][0]["json"])
    assert about["file"] == "level/b.mp4" and about["environment"] == ""
    assert not verify_dataset(tmp_path / "data").problems
    assert "0 jump, 1 left, 2 right" in (tmp_path / "data/README.md").read_text()


def read_frames(path: Path) -> np.ndarray:
    import av

    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_actions_by_time_hold_until_the_next(films: Path, tmp_path: Path) -> None:
    """Times are rounded as clocks do: 0.333 is about the frame at 0.3, 0.349 too, 0.36 about the one at 0.4."""
    rows = ["0.0,7,1", "0.333,5,2", "0.349,6,4", "0.36,9,8", "0.9,7,16", "1.1,5,32", "7.0,5,64"]
    for name in ("a.csv", "level/b.csv"):
        table(films, name, rows, "time_seconds,action,reward")
    some = windows(build(tmp_path / "data", source(films, max_frames=64), duplicates={"exact": False}), "a-")
    assert steps(some, "actions") == [2, 2, 2, 1, 4, 4, 4, 4, 4, 2, 2], "5 is 0"
    assert steps(some, "rewards") == [1, 0, 0, 6, 8, 0, 0, 0, 0, 16, 32], "what is after the film is not of it"
    assert read_manifest(tmp_path / "data/train").metadata["action_names"] == ["5", "6", "7", "8", "9"]


def test_steps_count_the_frames_that_are_taken(films: Path, tmp_path: Path) -> None:
    for name in ("a.csv", "level/b.csv"):
        table(films, name, [f"{n},jump" for n in range(6)], "step,action")
    taken = source(films, frames_per_second=5.0, size=[16, 24], max_frames=9)
    first = windows(build(tmp_path / "data", taken, duplicates={"exact": False}), "a-")
    assert [sample.frames.shape for sample in first] == [(6, 16, 24, 3)]
    assert np.isnan(first[0].rewards).all() and not first[0].done.any(), "nobody told"


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        (by_step(9), "step,action,reward,done", "a.csv has 9 rows where the film has 12 frames"),
        (["0,jump,0,0", "2,jump,0,0"], "step,action,reward,done", "a.csv, row 2: step is '2' where 1 comes next"),
        (["0,,0,0"], "step,action,reward,done", "a.csv, row 1: action is empty"),
        (["0,jump,much,0"], "step,action,reward,done", "a.csv, row 1: reward is 'much', not a number"),
        (["0,jump,0,maybe"], "step,action,reward,done", "a.csv, row 1: done is 'maybe', not one of"),
        (["0,jump"], "step,action,reward,done", "a.csv, row 1: it has not as many values as the header"),
        (
            ["0.5,jump", "0.5,left"],
            "time_seconds,action",
            "a.csv, row 2: time_seconds is 0.5 after 0.5: rows must rise",
        ),
        (["0.5,jump"], "time_seconds,action", "a.csv, row 1: begins at second 0.5: what was done before?"),
        (["0,0,jump"], "step,time_seconds,action", "needs the columns action and either step or time_seconds"),
        (["0,1"], "frame,move", "needs the columns action and either step or time_seconds; it has frame, move"),
        ([], "step,action", "a.csv has no row"),
    ],
)
def test_a_table_that_does_not_fit_is_named_with_its_row(
    films: Path, tmp_path: Path, rows: list[str], header: str, said: str
) -> None:
    table(films, "a.csv", rows, header)
    found = build(tmp_path / "data", source(films), max_unreadable_fraction=1.0)
    assert not windows(found, "a-") and windows(found, "level_b-")
    assert said in dropped(tmp_path / "data")["a.mp4"][1]


def test_films_without_a_table_and_damaged_ones_are_named(films: Path, tmp_path: Path) -> None:
    (films / "level/b.csv").unlink()
    write_film(films / "cut.mp4", frames=FRAMES, rate=RATE, sound_rate=None)
    table(films, "cut.csv", by_step())
    payload = (films / "cut.mp4").read_bytes()
    (films / "cut.mp4").write_bytes(payload[: len(payload) // 2])
    build(tmp_path / "data", source(films), max_unreadable_fraction=1.0)
    reasons = dropped(tmp_path / "data")
    assert reasons["level/b.mp4"] == ("unreadable", "there is no plain file 'level/b.csv'")
    assert set(reasons) == {"level/b.mp4", "cut.mp4"}
    (films / "a.csv").write_bytes(b"step,action\n0,\xff\n")
    (films / "cut.csv").unlink()
    with pytest.raises(ValueError, match=r"no table of actions can be used; a\.csv is not UTF-8 text \(byte 14\)"):
        build_dataset(settings(tmp_path / "other", source(films)))


def test_processes_do_not_change_a_byte(films: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        build_dataset(settings(tmp_path / str(processes), source(films)), processes=processes)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_table_may_have_other_columns_and_a_byte_order_mark(films: Path) -> None:
    (films / "a.csv").write_bytes("\ufeffplayer, step ,action\nme,0,jump\nme,1,left\n".encode())
    read = read_action_table(films, "a.csv")
    assert read.actions == ("jump", "left") and not read.by_time
