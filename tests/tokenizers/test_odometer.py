"""The odometer: how an agent has moved, told from what it saw and did.

Run: pytest tests/tokenizers/test_odometer.py
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import TinyRun, tiny_run
from toy_sequences import VOCABULARY
from toy_walks import walked

from data_pipelines.shards.storage import local_folder
from data_pipelines.sources.moves import moves_between
from data_pipelines.sources.recording import Recording, record_dataset
from data_pipelines.sources.walking import FORWARD, after
from unimodel.memory.poses import moved
from unimodel.run_folder import read_json
from unimodel.tokenizers.finished import has_codes, has_odometer, has_tokenizers, tokenizers_hash
from unimodel.tokenizers.odometer import Odometer
from unimodel.tokenizers.prepare import load_run_bundle, train_tokenizers
from unimodel.tokenizers.train_odometer import Learnt, Walk, train_odometer

BY_POSE = "stages.memory.memory.mechanisms=[{kind: episodic, by: pose, capacity_frames: 4, recalled_frames: 1}]"


def learnt_from(walks: list[Walk], steps: int = 200, seed: int = 0) -> Learnt:
    return train_odometer(walks, VOCABULARY, seed, lambda step, loss: None, steps)


@pytest.fixture(scope="module")
def learnt() -> Learnt:
    return learnt_from([each.walk for each in walked(1000, 60)])


def foretold(odometer: Odometer, walk: Walk) -> np.ndarray:
    frames = torch.from_numpy(walk.frames)
    return odometer.foretold(frames[:-1], torch.from_numpy(walk.actions), frames[1:]).numpy()


def test_moves_of_rooms_that_nobody_has_seen_are_told_right(learnt: Learnt) -> None:
    """Steps that a wall has stopped among them: no action alone tells those."""
    walks = [each.walk for each in walked(7000, 12)]
    true = np.concatenate([walk.moves for walk in walks])
    told = np.concatenate([foretold(learnt.odometer, walk) for walk in walks])
    right = (np.abs(told - true) < 1e-3).all(axis=1)
    frequent = Counter(map(tuple, true.round(3).tolist())).most_common(1)[0][1] / len(true)
    stopped = (true == 0).all(axis=1)
    assert right.mean() > 0.95 > frequent + 0.2
    assert stopped.sum() > 20 and right[stopped].mean() > 0.9
    assert learnt.accuracy > 0.95 > learnt.most_frequent + 0.2 and learnt.odometer.shape.num_moves == 4


def test_without_its_eyes_it_takes_every_step_for_one_that_was_made(learnt: Learnt) -> None:
    """Ids that nobody knows are read too: what was done tells what mostly comes of it."""
    walks = [each.walk for each in walked(7000, 12)]
    true = np.concatenate([walk.moves for walk in walks])
    blind = [Walk(np.full_like(walk.frames, -1), walk.actions, walk.moves) for walk in walks]
    right = (np.abs(np.concatenate([foretold(learnt.odometer, walk) for walk in blind]) - true) < 1e-3).all(axis=1)
    stopped = (true == 0).all(axis=1)
    assert right[~stopped].mean() > 0.95 and right[stopped].mean() < 0.1


def test_the_same_walks_and_seed_give_the_same_weights_whatever_came_before() -> None:
    walks = [each.walk for each in walked(1000, 60)[:4]]
    one = learnt_from(walks, steps=6)
    torch.rand(3)
    other, third = learnt_from(walks, steps=6), learnt_from(walks, steps=6, seed=1)
    weights, same, others = (each.odometer.state_dict() for each in (one, other, third))
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert not torch.equal(weights["code.weight"], others["code.weight"])


def test_it_survives_its_folder_and_stands_frozen_in_another_model(learnt: Learnt, tmp_path: Path) -> None:
    learnt.odometer.save(tmp_path)
    walk = walked(7000, 12)[1].walk
    expected = foretold(learnt.odometer, walk)
    np.testing.assert_array_equal(foretold(Odometer.load(tmp_path), walk), expected)
    around = torch.nn.ModuleDict({"odometer": learnt.odometer.frozen(), "linear": torch.nn.Linear(2, 2)}).bfloat16()
    assert (
        [name for name, _ in around.named_parameters()] == ["linear.weight", "linear.bias"] == list(around.state_dict())
    )
    inner = around["odometer"]
    assert isinstance(inner, Odometer) and inner.moves.dtype == torch.float32
    np.testing.assert_array_equal(foretold(inner, walk), expected)
    assert all(parameter.requires_grad for parameter in learnt.odometer.parameters())


def test_an_episode_without_a_step_teaches_no_move() -> None:
    alone = Walk(np.zeros((1, 4), dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros((0, 3)))
    with pytest.raises(ValueError, match="have no step"):
        learnt_from([alone])


def test_moves_in_a_grid_are_those_of_its_actions() -> None:
    """Whatever way the agent looks: forward is forward, a turn a quarter to the left or to the right."""
    rng = np.random.default_rng(0)
    actions = rng.integers(3, size=200)
    poses = [(3, 5, 2)]
    for action in actions.tolist():
        poses.append(after(poses[-1], action))
    moves = moves_between(np.array(poses))
    quarter = math.pi / 2
    by_action = {0: (0, 0, quarter), 1: (0, 0, -quarter), FORWARD: (1, 0, 0)}
    np.testing.assert_allclose(moves, [by_action[action] for action in actions.tolist()], atol=1e-12)
    about = moves_between(np.array([[0, 0, 0], [0, 0, 2], [0, 0, 0]]))
    np.testing.assert_allclose(about[:, 2], [math.pi, math.pi])


def test_moves_lead_from_pose_to_pose_in_a_continuous_world() -> None:
    """MiniWorld's ground: z grows downwards, and an angle turns to the left of who looks along x."""
    rng = np.random.default_rng(1)
    poses = [np.array([2.0, -1.0, 0.4])]
    expected = []
    for _ in range(100):
        forward, turn = (0.15, 0.0) if rng.random() < 0.6 else (0.0, rng.choice([-1, 1]) * math.pi / 12)
        x, z, angle = poses[-1]
        poses.append(np.array([x + forward * math.cos(angle), z - forward * math.sin(angle), angle + turn]))
        expected.append((forward, 0.0, turn))
    moves = moves_between(np.array(poses))
    np.testing.assert_allclose(moves, expected, atol=1e-9)
    pose = torch.tensor([2.0, 1.0, 0.4], dtype=torch.float64)
    for move in torch.from_numpy(moves):
        pose = moved(pose, move)
    x, y, angle = poses[-1] * [1, -1, 1]
    np.testing.assert_allclose(pose[:2].numpy(), [x, y], atol=1e-9)
    assert abs(math.remainder(float(pose[2]) - angle, 2 * math.pi)) < 1e-9


# --- in a run --------------------------------------------------------------------------------------------------------


def run_by_pose(folder: Path) -> TinyRun:
    return tiny_run(folder, BY_POSE, stages=("memory",))


def test_a_run_gets_one_when_and_only_when_a_stage_recalls_by_pose(tmp_path: Path) -> None:
    """Beside tokenizers that are there, which stay as they are, and so do their codes."""
    plain, run = tiny_run(tmp_path / "plain", stages=("memory",)), run_by_pose(tmp_path / "run")
    train_tokenizers(plain.config, plain.run)
    assert not plain.run.odometer.exists() and has_tokenizers(plain.config, plain.run)
    assert has_codes(run.config, run.run) and not has_tokenizers(run.config, run.run)
    before = tokenizers_hash(run.run)
    train_tokenizers(run.config, run.run)
    assert has_tokenizers(run.config, run.run) and tokenizers_hash(run.run) == before
    assert "of the moves of held-out episodes told right" in run.run.log.read_text()
    odometer = load_run_bundle(run.run).odometer
    assert odometer is not None and 1 <= odometer.shape.num_moves <= 5
    written = {path: path.stat().st_mtime_ns for path in run.run.tokenizers.rglob("*")}
    train_tokenizers(run.config, run.run)
    assert written == {path: path.stat().st_mtime_ns for path in run.run.tokenizers.rglob("*")}


def test_an_odometer_of_other_codes_is_refused(tmp_path: Path) -> None:
    run = run_by_pose(tmp_path)
    train_tokenizers(run.config, run.run)
    marker = run.run.odometer / "settings.json"
    marker.write_text(json.dumps(read_json(marker) | {"tokenizers": "of others"}))
    with pytest.raises(ValueError, match="holds an odometer of other settings"):
        has_odometer(run.config, run.run)


def test_episodes_without_poses_are_refused_by_source(tmp_path: Path) -> None:
    """Orchards tell none."""
    run = tiny_run(tmp_path, BY_POSE, f"data.folder={tmp_path / 'orchard'}", stages=("memory",))
    record_dataset(
        local_folder(run.config.data.folder),
        Recording(
            seed=0,
            environment="society:data_pipelines.sources.orchard?agents=2",
            train_episodes=1,
            validation_episodes=1,
            test_episodes=1,
            max_steps=3,
            policies=[{"kind": "random"}],
            image_size=64,
            episodes_per_shard=1,
        ),
        processes=1,
    )
    with pytest.raises(ValueError, match=r"source 'episodes': sample .* has no poses.*`by: key`"):
        train_tokenizers(run.config, run.run)
    assert not run.run.odometer.exists()
