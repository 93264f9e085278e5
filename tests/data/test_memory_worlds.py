"""Worlds in which something is to be remembered: the same again for the same seed, exactly set back, and hiding what
they should.

Run: pytest tests/data/test_memory_worlds.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from recorded_data import played, small_recording

from data_pipelines.sources import minigrid
from data_pipelines.sources.episode import encode_episode
from data_pipelines.sources.families import open_world
from data_pipelines.sources.recall import CUES, PATTERNS, RECALL, cue_picture
from data_pipelines.sources.recording import record_dataset

RECALLING = "data_pipelines.sources.recall:Recall-v0"
SMALL, LARGE = "MiniGrid-MemoryS7-v0", "MiniGrid-MemoryS13-v0"
SIZES = {RECALLING: 16}


@pytest.mark.parametrize("environment", SIZES)
def test_one_seed_is_one_episode_and_a_state_comes_back_exactly(environment: str) -> None:
    size = SIZES[environment]
    one, again, other = (played(environment, seed, max_steps=30, image_size=size)[0] for seed in (3, 3, 5))
    assert encode_episode(one) == encode_episode(again) and encode_episode(one) != encode_episode(other)
    world = open_world(environment, 3, size)
    snapshots = []
    for number, action in enumerate(one.actions):
        snapshots.append(world.snapshot())
        assert np.array_equal(world.step(action).frame, one.frames[number + 1])
    for number in (20, 3, 20):
        world.restore(snapshots[number])
        assert np.array_equal(world.frame, one.frames[number]) and world.moment.pose == tuple(one.poses[number])
        for step in range(number, 30):
            assert np.array_equal(world.step(one.actions[step]).frame, one.frames[step + 1])


def test_the_cue_comes_back_when_it_is_asked_for_and_only_then() -> None:
    noise = {pattern.tobytes() for pattern in PATTERNS}
    shown = set()
    for episode in played(RECALLING, *range(40), max_steps=60, image_size=16, kind="recall", gap_steps=[2, 20]):
        cue = next(cue for cue in range(len(CUES)) if np.array_equal(episode.frames[0], cue_picture(cue)))
        shown.add(cue)
        for action, frame in zip(episode.actions, episode.frames[1:], strict=True):
            blocks = frame.reshape(2, 8, 2, 8, 3).transpose(0, 2, 1, 3, 4).reshape(4, 8, 8, 3)
            if action == RECALL:
                assert np.array_equal(frame, cue_picture(cue))
            else:
                assert {block.tobytes() for block in blocks} <= noise
    assert len(shown) == len(CUES)


def test_recall_comes_after_as_many_steps_as_the_settings_say() -> None:
    episodes = played(RECALLING, *range(30), max_steps=400, image_size=16, kind="recall", gap_steps=[3, 120])
    gaps = [np.diff(np.flatnonzero(episode.actions == RECALL), prepend=-1) for episode in episodes]
    every = np.concatenate(gaps)
    assert every.min() == 3 and 100 < every.max() <= 120
    assert np.mean(every <= 18) == pytest.approx(0.5, abs=0.1), "each octave as often as another"


@pytest.mark.parametrize(("environment", "view_cells"), [(SMALL, 7), (LARGE, 7), (LARGE, 5)])
def test_the_cue_is_seen_left_behind_and_never_seen_again(environment: str, view_cells: int) -> None:
    """Told from pictures alone: a green thing where the cue is, seen from the recorded pose."""
    size, gaps = 8 * view_cells, []
    policy = {"kind": "memory", "wander_steps": [1, 60]}
    for episode in played(environment, *range(12), max_steps=400, image_size=size, view_cells=view_cells, **policy):
        assert episode.done[-1]
        level = minigrid.open_simulator(environment, episode.seed, size, view_cells)
        seen = []
        for frame, (x, y, direction) in zip(episode.frames, episode.poses, strict=True):
            level.env.agent_pos, level.env.agent_dir = (x, y), direction
            place = level.env.relative_coords(*minigrid.cue_cell(level.env))
            row, column = (8 * place[1], 8 * place[0]) if place is not None else (0, 0)
            tile = frame[row : row + 8, column : column + 8].astype(int)
            seen.append(place is not None and (tile[..., 1] - tile[..., 0]).max() > 60)
        shown = np.flatnonzero(seen)
        gaps.append(len(seen) - 1 - shown[-1])
        assert len(shown) and gaps[-1] >= 3
    assert min(gaps) < 20 and max(gaps) > 40


def test_rewards_are_for_the_right_thing_which_half_of_the_episodes_take() -> None:
    episodes = played(SMALL, *range(60), max_steps=245, image_size=56, view_cells=7, kind="memory", wander_steps=[1, 4])
    for episode in episodes:
        level = minigrid.open_simulator(SMALL, episode.seed, 56, 7)
        assert (tuple(episode.poses[-1, :2]) == level.env.success_pos) == (episode.rewards[-1] > 0)
        assert episode.done[-1] and not episode.rewards[:-1].any()
    assert 20 <= sum(episode.rewards[-1] > 0 for episode in episodes) <= 40
    always = played(SMALL, *range(8), max_steps=245, image_size=56, view_cells=7, kind="memory", right_fraction=1.0)
    assert all(episode.rewards[-1] > 0 for episode in always)


@pytest.mark.parametrize(
    ("environment", "policy", "said"),
    [
        ("CartPole-v1", {"kind": "recall"}, "recall plays data_pipelines.sources.recall:Recall-v0 and not CartPole-v1"),
        (SMALL, {"kind": "memory"}, "always seen: set view_cells"),
        (RECALLING, {"kind": "memory"}, "memory plays MiniGrid-MemoryS7-v0 and its like and not"),
        (RECALLING, {"kind": "recall", "gap_steps": [9, 3]}, "least and most: 9 is more than 3"),
    ],
)
def test_scripts_of_other_worlds_are_refused_before_anything_is_written(
    environment: str, policy: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        record_dataset(tmp_path / "new", small_recording(environment=environment, policies=[policy], image_size=56))
    assert not (tmp_path / "new").exists()
