"""Minari datasets: what was played comes out step by step, and faults are named.

Run: pytest tests/data/test_build_minari.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import h5py
import minari_folders as worlds
import numpy as np
import pytest
from build_sources import build, dropped, settings
from gymnasium import spaces
from recorded_data import contents

from data_pipelines.build.build import build_dataset
from data_pipelines.extras import MissingExtraError
from data_pipelines.shards.index import read_manifest
from data_pipelines.shards.verify import verify_dataset
from data_pipelines.sources import minari
from data_pipelines.sources.sample import decode_sample


def source(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "minari", "path": str(folder), "max_frames": 5} | changes


@pytest.mark.parametrize(("data_format", "jpeg"), [("hdf5", False), ("hdf5", True), ("parquet", False)])
def test_every_step_comes_out_as_it_was_played(
    data_format: str, jpeg: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observations, actions, episodes = worlds.play(3, 11)
    folder = worlds.write_minari(tmp_path / "worlds", monkeypatch, observations, actions, episodes, data_format, jpeg)
    found = build(tmp_path / "data", source(folder, observation="image"))
    samples = {key: decode_sample(key, fields) for key, (fields, _) in found.items()}
    for number, played in enumerate(episodes):
        windows = [sample for key, sample in samples.items() if key.startswith(f"episode-{number:06d}-")]
        steps = len(played.rewards)
        assert [sample.num_frames for sample in windows] == [min(5, steps + 1 - first) for first in range(0, steps, 4)]
        seen = np.concatenate([windows[0].frames[:1], *(sample.frames[1:] for sample in windows)])
        difference = np.abs(seen.astype(int) - np.stack(played.observations["image"]))
        assert difference.max() == 0 if not jpeg else difference.mean() < 4
        assert all(np.array_equal(a.frames[-1], b.frames[0]) for a, b in zip(windows, windows[1:], strict=False))
        assert np.concatenate([sample.actions for sample in windows]).tolist() == played.actions
        rewards = np.concatenate([sample.rewards for sample in windows])
        assert np.allclose(rewards, np.asarray(played.rewards, np.float32), atol=0)
        assert np.concatenate([sample.done for sample in windows]).tolist() == played.terminations
        assert {sample.mission for sample in windows} == {"get to the green goal square"}
        about = json.loads(found[f"episode-{number:06d}-000000"][0]["json"])
        assert (about["seed"], about["environment"], about["dataset"]) == (number, "", worlds.NAME)
    assert {sample.num_actions for sample in samples.values()} == {7}
    assert read_manifest(tmp_path / "data/train").metadata["action_names"] == list("0123456")
    assert not verify_dataset(tmp_path / "data").problems and not dropped(tmp_path / "data")


def test_grey_frames_and_actions_that_do_not_begin_at_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box, episodes = worlds.drifting([np.array([-1, 1, 0, 1])])
    folder = worlds.write_minari(tmp_path / "worlds", monkeypatch, box, spaces.Discrete(3, start=-1), episodes)
    ((fields, _),) = build(tmp_path / "data", source(folder / "data", size=[4, 6])).values()
    sample = decode_sample("sample", fields)
    assert sample.actions.tolist() == [0, 2, 1, 2] and sample.num_actions == 3 and sample.mission == ""
    assert np.array_equal(sample.frames, np.broadcast_to(np.arange(5)[:, None, None, None], (5, 4, 6, 3)))
    assert read_manifest(tmp_path / "data/train").metadata["action_names"] == ["-1", "0", "1"]


def test_controls_become_codes_that_lose_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    taken = [rng.uniform(-1, 1, (40, 2)).astype(np.float32) * np.float32([1, 50]) for _ in range(4)]
    box, episodes = worlds.drifting(taken)
    folder = worlds.write_minari(tmp_path / "worlds", monkeypatch, box, spaces.Box(-50, 50, (2,)), episodes)
    losses = []
    for count in (4, 16, 64):
        found = build(tmp_path / f"{count}/data", source(folder, max_frames=64, action_codes=count))
        metadata = read_manifest(tmp_path / f"{count}/data/train").metadata
        centres = np.array(metadata["actions"]["centres"])
        samples = [decode_sample(key, fields) for key, (fields, _) in found.items()]
        codes = np.stack([sample.actions for sample in samples])
        distances = np.abs((np.stack(taken)[:, :, None] - centres) / metadata["actions"]["scale"])
        assert np.array_equal(codes, (distances**2).sum(-1).argmin(-1)), "the nearest, all controls counting alike"
        lost = np.sqrt(np.mean((centres[codes] - np.stack(taken)) ** 2, axis=(0, 1)))
        assert np.allclose(lost, metadata["actions"]["error"], rtol=1e-4)
        losses.append(float((lost / [1, 50]).max()))
        assert {sample.num_actions for sample in samples} == {len(centres)} and len(centres) <= count
    # A grid of as many cells loses 2 / sqrt(12 * count) of a range of 2.
    assert all(loss < 1.15 * 2 / np.sqrt(12 * count) for loss, count in zip(losses, (4, 16, 64), strict=True))


def test_few_different_vectors_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = np.array([[0, 2], [1, 0], [1, 0], [0, 1]])
    box, episodes = worlds.drifting([taken])
    folder = worlds.write_minari(tmp_path / "worlds", monkeypatch, box, spaces.MultiDiscrete([2, 3]), episodes)
    ((fields, _),) = build(tmp_path / "data", source(folder)).values()
    actions = read_manifest(tmp_path / "data/train").metadata["actions"]
    assert np.array(actions["centres"])[decode_sample("sample", fields).actions].tolist() == taken.tolist()
    assert actions["error"] == [0, 0]


def test_two_processes_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minari, "BLOCK_EPISODES", 1)
    rng = np.random.default_rng(3)
    box, episodes = worlds.drifting([rng.normal(size=(12, 3)) for _ in range(3)])
    folder = worlds.write_minari(tmp_path / "worlds", monkeypatch, box, spaces.Box(-9, 9, (3,), np.float64), episodes)
    for processes in (1, 2):
        wanted = settings(tmp_path / f"{processes}/data", source(folder, action_codes=5))
        build_dataset(wanted, processes=processes)
    assert contents(tmp_path / "1/data") == contents(tmp_path / "2/data")


def test_faults_of_one_episode_cost_that_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box, episodes = worlds.drifting([np.array([[0.5, number]] * 4) for number in range(10)])
    space = spaces.Box(-9, 9, (2,), np.float64)
    folder = worlds.write_minari(tmp_path / "worlds", monkeypatch, box, space, episodes)
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["secret"] = np.zeros(4)
    (tmp_path / "secret.bin").write_bytes(bytes(32))
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        del file["episode_1/rewards"]
        file["episode_1/rewards"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "secret")
        del file["episode_2/rewards"]
        place = [(str(tmp_path / "secret.bin"), 0, 32)]
        file["episode_2"].create_dataset("rewards", (4,), np.float64, external=place)
        file["episode_3/actions"][1] = np.nan
        actions = file["episode_4/actions"][:3]
        del file["episode_4/actions"]
        file["episode_4/actions"] = actions
        del file["episode_5"]
        file["door"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/")
        del file["episode_6/rewards"]
        file["episode_6/rewards"] = h5py.SoftLink("/door/secret")
        for name in ("actions", "rewards", "terminations", "observations"):
            kept = file["episode_7"][name][: int(name == "observations")]
            del file["episode_7"][name]
            file["episode_7"][name] = kept
        del file["episode_8/observations"]
        file["episode_8/observations"] = np.zeros((5, 8, 10))
    found = build(tmp_path / "data", source(folder), max_unreadable_fraction=0.9)
    assert list(found) == ["episode-000009-000000"]
    lost = dropped(tmp_path / "data")
    assert lost.pop("episode 7") == ("empty", "no step") and len(lost) == 8
    assert "its pictures are float64 [8, 10, 1]" in lost["episode 8"][1]
    for number, detail in enumerate(
        (
            "not readable (KeyError",
            "rewards leads elsewhere: refused",
            "rewards leads elsewhere: refused",
            "its actions are not all finite",
            "it has 4 rewards for 3 actions",
            "there is no episode_5",
            "rewards leads elsewhere: refused",
        )
    ):
        assert lost[f"episode {number}"][0] == "unreadable" and detail in lost[f"episode {number}"][1]


def test_datasets_and_settings_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"no Minari dataset: it holds no data/metadata\.json"):
        build(tmp_path / "data", source(tmp_path / "nothing"))
    observations, actions, episodes = worlds.play(1, 3)
    observations["second"] = observations["image"]
    episodes[0].observations["second"] = episodes[0].observations["image"]  # pyright: ignore
    folder = worlds.write_minari(tmp_path / "worlds", monkeypatch, observations, actions, episodes)
    with pytest.raises(ValueError, match=r"source\.observation: name one .*; there are: image, second"):
        build(tmp_path / "data", source(folder))
    with pytest.raises(ValueError, match=r"no picture 'mission' .*; there are: image, second"):
        build(tmp_path / "data", source(folder, observation="mission"))
    with pytest.raises(ValueError, match=r"60000 frames of 40x40 .* lower source\.max_frames"):
        build(tmp_path / "data", source(folder, observation="image", max_frames=60000))
    metadata = folder / "data/metadata.json"
    whole = json.loads(metadata.read_text())
    tuple_space = json.dumps({"type": "Tuple", "subspaces": [json.loads(whole["action_space"])]})
    for content, message in (
        (json.dumps(whole | {"action_space": tuple_space}), "actions of kind Tuple cannot be used; Discrete, Box"),
        (json.dumps(whole | {"data_format": "pickle"}), "cannot be used (KeyError: 'pickle')"),
        ("{", "cannot be used (JSONDecodeError"),
    ):
        metadata.write_text(content)
        with pytest.raises(ValueError) as caught:
            build(tmp_path / "data", source(folder, observation="image"))
        assert message in str(caught.value) and str(folder) in str(caught.value)


def test_links_out_of_the_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box, episodes = worlds.drifting([np.array([0, 1])] * 2)
    folder = worlds.write_minari(tmp_path / "worlds", monkeypatch, box, spaces.Discrete(2), episodes, "arrow")
    (part,) = (folder / "data/1").glob("*.arrow")
    part.rename(tmp_path / "elsewhere.arrow")
    part.symlink_to(tmp_path / "elsewhere.arrow")
    with pytest.raises(ValueError, match="leads out of the source folder: refused"):
        build(tmp_path / "data", source(folder))


def test_no_environment_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its spaces the library would make the environment, which a dataset may name as any code."""
    box, episodes = worlds.drifting([np.array([0, 1])])
    folder = worlds.write_minari(tmp_path / "worlds", monkeypatch, box, spaces.Discrete(2), episodes)
    metadata = json.loads((folder / "data/metadata.json").read_text())
    spec = {"id": "Hostile-v0", "entry_point": "hostile_module:make", "additional_wrappers": []}
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('started')")
    monkeypatch.syspath_prepend(str(tmp_path))
    del metadata["action_space"]
    (folder / "data/metadata.json").write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    with pytest.raises(ValueError, match="does not tell action_space"):
        build(tmp_path / "data", source(folder))
    assert "hostile_module" not in sys.modules


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari.dataset.minari_storage", None)
    with pytest.raises(MissingExtraError, match=r"needs minari: pip install 'unimodel\[minari\]'"):
        build(tmp_path / "data", source(tmp_path / "worlds"))
