"""LeRobot datasets: frames, actions and outcomes come out side by side as they were recorded, and faults are named.

Run: pytest tests/data/test_build_lerobot.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import lerobot_folders as robots
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from build_sources import build, dropped, settings
from lerobot_folders import CAMERA, LENGTHS, TASKS, write_lerobot
from recorded_data import contents

from data_pipelines.build.build import build_dataset
from data_pipelines.shards.index import read_manifest
from data_pipelines.shards.stats import dataset_stats
from data_pipelines.shards.verify import verify_dataset
from data_pipelines.sources import lerobot
from data_pipelines.sources.sample import Sample, decode_sample

VERSIONS = (("v2.1", "libx264"), ("v3.0", "libsvtav1"), ("v3.0", "libx264"))


def source(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "lerobot", "path": str(folder), "camera": CAMERA, "max_frames": 5} | changes


def decoded(found: dict[str, tuple[dict[str, bytes], dict[str, Any]]]) -> dict[str, Sample]:
    return {key: decode_sample(key, fields) for key, (fields, _) in found.items()}


def joined(windows: dict[str, Sample], episode: int) -> list[Sample]:
    return [sample for key, sample in sorted(windows.items()) if key.startswith(f"episode-{episode:06d}-")]


def test_an_encoder_leaves_the_tests_no_real_time_process(tmp_path: Path) -> None:
    before = os.sched_getscheduler(0)
    write_lerobot(tmp_path / "robots", "v3.0", codec="libsvtav1")
    assert os.sched_getscheduler(0) == before


@pytest.mark.parametrize(("version", "codec"), VERSIONS)
def test_every_frame_stands_beside_its_action(version: str, codec: str, tmp_path: Path) -> None:
    write_lerobot(tmp_path / "robots", version, codec=codec)
    found = build(tmp_path / "data", source(tmp_path / "robots"), splits={"test": 0.55})
    windows = decoded(found)
    metadata = read_manifest(tmp_path / "data/train").metadata
    centres = np.array(metadata["actions"]["centres"])
    assert metadata["actions"]["names"] == ["shoulder", "elbow"] and metadata["num_actions"] == len(centres) == 26
    for episode, length in enumerate(LENGTHS):
        some = joined(windows, episode)
        assert [sample.num_frames for sample in some] == [5] * ((length - 1) // 4) + [(length - 1) % 4 + 1] * (
            (length - 1) % 4 > 0
        )
        places = [[robots.place_of(frame) for frame in sample.frames] for sample in some]
        assert places[0] + [place for one in places[1:] for place in one[1:]] == [(episode, n) for n in range(length)]
        assert all(one[-1] == other[0] for one, other in zip(places, places[1:], strict=False)), "windows share a frame"
        taken = centres[np.concatenate([sample.actions for sample in some])]
        assert np.array_equal(taken, robots.actions(episode, length)[:-1]), "few vectors are kept as they are"
        rewards = np.concatenate([sample.rewards for sample in some])
        assert rewards.tolist() == [*range(1, length - 1), 2 * length - 1], "the last two arrive together"
        assert np.concatenate([sample.done for sample in some]).tolist() == [False] * (length - 2) + [True]
        assert {sample.mission for sample in some} == {TASKS[episode % 2]}
    fields, lengths = found["episode-000001-000004"]
    assert lengths == {"frames": [3], "size": [64, 64]}
    about = json.loads(fields["json"])
    assert (about["episode"], about["first_step"], about["robot"], about["license"]) == (1, 4, "so100", "cc0-1.0")
    assert not verify_dataset(tmp_path / "data").problems
    assert dataset_stats(tmp_path / "data")["train"]["steps"] > 0
    split = {key.parent.name for key in (tmp_path / "data").glob("*/index.json")}
    assert split == {"train", "test"} and len(dropped(tmp_path / "data")) == 0


def test_without_outcomes_rewards_are_unknown_and_the_end_is_the_end(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "robots", "v3.0", outcomes=False)
    windows = decoded(build(tmp_path / "data", source(tmp_path / "robots", max_frames=64, size=[32, 48])))
    assert [sample.frames.shape for sample in windows.values()] == [(length, 32, 48, 3) for length in LENGTHS]
    assert all(np.isnan(sample.rewards).all() for sample in windows.values())
    assert [sample.done.nonzero()[0].tolist() for sample in windows.values()] == [[length - 2] for length in LENGTHS]


def test_pictures_in_the_table_and_named_tasks(tmp_path: Path) -> None:
    tables = [robots.table(episode, 6, 6 * episode, robots.actions(episode, 6)) for episode in range(2)]
    robots.write_v30(tmp_path / "robots", tables, pictures=True, tasks_name="task")
    windows = decoded(build(tmp_path / "data", source(tmp_path / "robots", max_frames=6)))
    for episode, sample in enumerate(windows.values()):
        assert np.array_equal(sample.frames, [robots.frame(episode, number) for number in range(6)])
        assert sample.mission == TASKS[episode]


def test_many_vectors_become_a_few_that_the_card_tells(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    middles = np.array([[0.0, 0.0], [1.0, 300.0], [-2.0, 100.0], [3.0, -200.0]], np.float32)
    scale = np.array([0.01, 1.0], np.float32)
    kinds = rng.integers(4, size=(2, 12))
    taken = middles[kinds] + scale * rng.uniform(-1, 1, (2, 12, 2)).astype(np.float32)
    robots.write_v21(tmp_path / "robots", [robots.table(e, 12, 12 * e, taken[e]) for e in range(2)])
    windows = decoded(build(tmp_path / "data", source(tmp_path / "robots", max_frames=12, action_codes=4)))
    actions = read_manifest(tmp_path / "data/train").metadata["actions"]
    centres = np.array(actions["centres"])
    assert centres.tolist() == sorted(centres.tolist()) and actions["count"] == 4
    for episode, sample in enumerate(windows.values()):
        lost = np.abs(centres[sample.actions] - taken[episode, :-1]) / scale
        assert lost.max() < 2 and sample.num_actions == 4
    assert np.array_equal(np.array(actions["error"]) < scale, [True, True])
    card = (tmp_path / "data/README.md").read_text()
    assert "| action | shoulder | elbow |" in card
    assert all(f"| {number} | {x:g} | {y:g} |" in card for number, (x, y) in enumerate(centres))


def test_whole_numbers_are_kept_from_the_smallest_on(tmp_path: Path) -> None:
    taken = np.array([3, 7, 4, 3, 9, 3])
    robots.write_v21(tmp_path / "robots", [robots.table(0, 6, 0, taken)])
    ((_, sample),) = decoded(build(tmp_path / "data", source(tmp_path / "robots", max_frames=6))).items()
    assert sample.actions.tolist() == [0, 4, 1, 0, 6] and sample.num_actions == 7
    assert read_manifest(tmp_path / "data/train").metadata["action_names"] == list("3456789")
    assert "Actions are those of the source (3 .. 9) less 3." in (tmp_path / "data/README.md").read_text()


def test_two_processes_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot, "BLOCK_EPISODES", 1)
    write_lerobot(tmp_path / "robots", "v3.0")
    for processes in (1, 2):
        build_dataset(settings(tmp_path / f"{processes}/data", source(tmp_path / "robots")), processes=processes)
    assert contents(tmp_path / "1/data") == contents(tmp_path / "2/data")


def edit_info(folder: Path, **changes: Any) -> None:
    path = folder / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebase_version": "v1.6"}, "version 'v1.6' cannot be read; v2.0, v2.1, v3.0 can"),
        ({"fps": 0}, "fps is 0"),
        ({"data_path": "../{episode_index}.parquet"}, "data_path: '../0.parquet' leads out of the source folder"),
        ({"video_path": "/etc/{video_key}"}, "video_path: '/etc/observation.images.top' leads out"),
        ({"data_path": "{episode_index.__class__}"}, "it may use episode_chunk, episode_index"),
        ({"data_path": "{episode_index:999999999d}"}, "it may use episode_chunk, episode_index"),
        ({"video_path": None}, "video_path is None"),
        ({"features": {}}, f"has no camera '{CAMERA}'; there are: none"),
    ],
)
def test_metadata_that_cannot_be_used(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_lerobot(tmp_path / "robots", "v2.1", lengths=(3,))
    edit_info(tmp_path / "robots", **changes)
    with pytest.raises(ValueError, match=r"robots") as caught:
        build(tmp_path / "data", source(tmp_path / "robots"))
    assert message in str(caught.value)


def test_wrong_settings_are_told_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no LeRobot dataset: it holds no meta/info\.json"):
        build(tmp_path / "data", source(tmp_path / "nothing"))
    write_lerobot(tmp_path / "robots", "v3.0", lengths=(3, 3))
    with pytest.raises(ValueError, match=r"no camera 'wrist'; there are: observation\.images\.top"):
        build(tmp_path / "data", source(tmp_path / "robots", camera="wrist"))
    with pytest.raises(ValueError, match=r"no feature 'actions'; those called like it: action$"):
        build(tmp_path / "data", source(tmp_path / "robots", action="actions"))
    with pytest.raises(ValueError, match=r"20000 frames of 64x64 .* lower source\.max_frames"):
        build(tmp_path / "data", source(tmp_path / "robots", max_frames=20000))
    path = tmp_path / "robots/data/chunk-000/file-000.parquet"
    for table in (path, path.with_name("file-001.parquet")):
        pq.write_table(pq.read_table(table).drop_columns(["action"]), table)
    with pytest.raises(
        ValueError, match=r"file-000\.parquet has no column 'action'; it has episode_index, frame_index"
    ):
        build(tmp_path / "data", source(tmp_path / "robots"))


def test_faults_of_one_episode_cost_that_episode(tmp_path: Path) -> None:
    folder = tmp_path / "robots"
    write_lerobot(folder, "v2.1", lengths=(6,) * 9)
    tables = folder / "data/chunk-000"
    films = folder / f"videos/chunk-000/{CAMERA}"
    rows = {number: pq.read_table(tables / f"episode_{number:06d}.parquet") for number in range(9)}
    (films / "episode_000000.mp4").unlink()
    robots.write_video(films / "episode_000001.mp4", (robots.frame(1, n) for n in range(5)), "libx264")
    pq.write_table(rows[2].slice(0, 4), tables / "episode_000002.parquet")
    (tables / "episode_000003.parquet").write_bytes(b"PAR1 and nothing else")
    pq.write_table(rows[4].drop_columns(["action"]), tables / "episode_000004.parquet")
    order = pa.array([0, 2, 1, 3, 4, 5])
    pq.write_table(rows[5].take(order), tables / "episode_000005.parquet")
    content = (films / "episode_000006.mp4").read_bytes()
    (films / "episode_000006.mp4").write_bytes(content[: len(content) // 2])
    lines = (folder / "meta/episodes.jsonl").read_text().splitlines()
    lines[7] = json.dumps({"episode_index": 7, "tasks": [], "length": 1})
    (folder / "meta/episodes.jsonl").write_text("\n".join(lines))
    found = build(tmp_path / "data", source(folder, max_frames=6), max_unreadable_fraction=0.9)
    assert list(found) == ["episode-000008-000000"]
    lost = dropped(tmp_path / "data")
    for number, detail in enumerate(
        (
            "there is no plain file 'videos/chunk-000",
            "episode_000001.mp4 has 5 frames of it where data/chunk-000/episode_000001.parquet has 6 rows",
            "has 4 rows of it where meta/episodes says 6",
            "episode_000003.parquet is not readable",
            "has no column 'action'; it has episode_index",
            "its frame_index does not count from 0 to 5",
            "not readable (",
        )
    ):
        assert lost[f"episode {number}"][0] == "unreadable" and detail in lost[f"episode {number}"][1]
    assert lost["episode 7"] == ("empty", "no step") and len(lost) == 8


def test_film_and_table_of_many_episodes_that_disagree(tmp_path: Path) -> None:
    write_lerobot(tmp_path / "robots", "v3.0")
    path = tmp_path / "robots/meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0][f"videos/{CAMERA}/to_timestamp"] = 1.1  # of 12 rows at 10 a second
    rows[1][f"videos/{CAMERA}/from_timestamp"] += 0.45  # between two frames, and beyond the end
    rows[1][f"videos/{CAMERA}/to_timestamp"] += 0.45
    pq.write_table(pa.Table.from_pylist(rows), path)
    found = build(tmp_path / "data", source(tmp_path / "robots", max_frames=64), max_unreadable_fraction=0.9)
    assert list(found) == ["episode-000002-000000"]
    lost = dropped(tmp_path / "data")
    assert "has 11 frames of it where data/chunk-000/file-000.parquet has 12 rows" in lost["episode 0"][1]
    assert "file-000.mp4 ends after" in lost["episode 1"][1]
