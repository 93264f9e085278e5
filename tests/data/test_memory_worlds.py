"""Worlds in which something is to be remembered: the same again for the same seed, exactly set back, and hiding what
they should.

Run: pytest tests/data/test_memory_worlds.py
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from minigrid.envs.memory import MemoryEnv
from recorded_data import played, small_recording

from data_pipelines.sources import minigrid
from data_pipelines.sources.episode import encode_episode
from data_pipelines.sources.families import open_world
from data_pipelines.sources.recall import CUES, PATTERNS, RECALL, cue_picture
from data_pipelines.sources.recording import record_dataset
from data_pipelines.sources.revisits import are_unchanged, revisits
from data_pipelines.sources.rooms import OUTSIDE, TILES
from data_pipelines.sources.since_seen import steps_since_seen
from data_pipelines.sources.walking import FORWARD, distances

RECALLING = "data_pipelines.sources.recall:Recall-v0"
RECALLING_TILES = "data_pipelines.sources.recall:RecallTiles-v0"
SMALL, LARGE = "MiniGrid-MemoryS7-v0", "MiniGrid-MemoryS13-v0"
ROOMS, BALLS = "data_pipelines.sources.rooms:Rooms-3x3-v0", "data_pipelines.sources.balls:HiddenBalls-v0"
CAROUSEL = "data_pipelines.sources.balls:Carousel-v0"
SIZES = {RECALLING: 16, RECALLING_TILES: 16, ROOMS: 40, BALLS: 40, CAROUSEL: 40}


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


def blocks_of(frame: np.ndarray) -> set[bytes]:
    """Each patch of 8 x 8 pixels."""
    rows, columns = frame.shape[0] // 8, frame.shape[1] // 8
    return {tile.tobytes() for tile in frame.reshape(rows, 8, columns, 8, 3).swapaxes(1, 2).reshape(-1, 8, 8, 3)}


def test_the_cue_comes_back_when_it_is_asked_for_and_only_then() -> None:
    noise = {pattern.tobytes() for pattern in PATTERNS}
    shown = set()
    for episode in played(RECALLING, *range(40), max_steps=60, image_size=16, kind="recall", gap_steps=[2, 20]):
        cue = next(cue for cue in range(len(CUES)) if np.array_equal(episode.frames[0], cue_picture(cue)))
        shown.add(cue)
        for action, frame in zip(episode.actions, episode.frames[1:], strict=True):
            if action == RECALL:
                assert np.array_equal(frame, cue_picture(cue))
            else:
                assert blocks_of(frame) <= noise
        times = np.flatnonzero([True, *(episode.actions == RECALL)])
        assert np.array_equal(steps_since_seen(episode)[times], np.diff(times, prepend=0))
        assert not np.delete(steps_since_seen(episode), times).any()
    assert len(shown) == len(CUES)


def test_recall_of_tiles_shows_what_babyai_shows() -> None:
    """Pixel by pixel, so that an image tokenizer of its rooms has a code for every block."""
    rooms = played("BabyAI-GoToLocalS8N3-v0", *range(30), max_steps=20, image_size=64, kind="bot")
    known = set.union(*(blocks_of(frame) for episode in rooms for frame in episode.frames))
    recalled = played(RECALLING_TILES, *range(200), max_steps=8, image_size=16, kind="recall", gap_steps=[2, 4])
    cues = {episode.frames[0].tobytes() for episode in recalled}
    assert len(cues) == 18
    assert all(blocks_of(frame) <= known for episode in recalled for frame in episode.frames)


def test_recall_comes_after_as_many_steps_as_the_settings_say() -> None:
    episodes = played(RECALLING, *range(30), max_steps=400, image_size=16, kind="recall", gap_steps=[3, 120])
    gaps = [np.diff(np.flatnonzero(episode.actions == RECALL), prepend=-1) for episode in episodes]
    every = np.concatenate(gaps)
    assert every.min() == 3 and 100 < every.max() <= 120
    assert np.mean(every <= 18) == pytest.approx(0.5, abs=0.1), "each octave as often as another"


def memory_room(environment: str, seed: int, view_cells: int = 7) -> MemoryEnv:
    room = minigrid.open_simulator(environment, seed, 8 * view_cells, view_cells).env
    assert isinstance(room, MemoryEnv)
    return room


@pytest.mark.parametrize(("environment", "view_cells"), [(SMALL, 7), (LARGE, 7), (LARGE, 5)])
def test_the_cue_is_seen_left_behind_and_never_seen_again(environment: str, view_cells: int) -> None:
    """Told from pictures alone: a green thing where the cue is, seen from the recorded pose."""
    size, gaps = 8 * view_cells, []
    policy = {"kind": "memory", "wander_steps": [1, 60]}
    for episode in played(environment, *range(12), max_steps=400, image_size=size, view_cells=view_cells, **policy):
        assert episode.done[-1]
        room = memory_room(environment, episode.seed, view_cells)
        seen = []
        for frame, (x, y, direction) in zip(episode.frames, episode.poses, strict=True):
            room.agent_pos, room.agent_dir = (x, y), direction
            place = room.relative_coords(*minigrid.cue_cell(room))
            row, column = (8 * place[1], 8 * place[0]) if place is not None else (0, 0)
            tile = frame[row : row + 8, column : column + 8].astype(int)
            seen.append(place is not None and (tile[..., 1] - tile[..., 0]).max() > 60)
        shown = np.flatnonzero(seen)
        gaps.append(len(seen) - 1 - shown[-1])
        since = steps_since_seen(episode)
        assert since[-1] == gaps[-1] and since[shown[1:]].tolist() == np.diff(shown).tolist()
        assert not since[:-1][~np.array(seen[:-1])].any()
        assert len(shown) and gaps[-1] >= 3
    assert min(gaps) < 20 and max(gaps) > 40


def test_the_cue_is_looked_at_as_often_as_wanted() -> None:
    policy = {"kind": "memory", "wander_steps": [8, 8], "looks": [3, 3]}
    for episode in played(SMALL, *range(6), max_steps=400, image_size=40, view_cells=5, **policy):
        since = steps_since_seen(episode)
        assert int((since[:-1] > 8).sum()) == 2, "again twice, longer ago than it wanders"
        assert since[-1] > 8 and episode.done[-1]


def test_rewards_are_for_the_right_thing_which_half_of_the_episodes_take() -> None:
    episodes = played(SMALL, *range(60), max_steps=245, image_size=56, view_cells=7, kind="memory", wander_steps=[1, 4])
    for episode in episodes:
        assert (tuple(episode.poses[-1, :2]) == memory_room(SMALL, episode.seed).success_pos) == (
            episode.rewards[-1] > 0
        )
        assert episode.done[-1] and not episode.rewards[:-1].any()
    assert 20 <= sum(episode.rewards[-1] > 0 for episode in episodes) <= 40
    always = played(SMALL, *range(8), max_steps=245, image_size=56, view_cells=7, kind="memory", right_fraction=1.0)
    assert all(episode.rewards[-1] > 0 for episode in always)


def test_a_frame_of_the_rooms_is_the_cells_before_the_pose() -> None:
    for episode in played(ROOMS, *range(3), max_steps=120, image_size=40, kind="walk"):
        cells = open_world(ROOMS, episode.seed, 40).simulator.own.cells  # pyright: ignore[reportAttributeAccessIssue]
        for frame, (x, y, direction) in zip(episode.frames, episode.poses, strict=True):
            forward = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][direction])
            right = np.array([-forward[1], forward[0]])
            for ahead in range(5):
                for side in range(-2, 3):
                    column, row = np.array((x, y)) + ahead * forward + side * right
                    inside = 0 <= row < len(cells) and 0 <= column < len(cells)
                    tile = frame[32 - 8 * ahead : 40 - 8 * ahead, 16 + 8 * side : 24 + 8 * side]
                    wanted = TILES[cells[row, column] if inside else OUTSIDE]
                    assert np.array_equal(tile, wanted) or (ahead == side == 0 and np.array_equal(tile[0], wanted[0]))


def test_every_room_can_be_reached_and_seeds_build_others() -> None:
    for environment in (ROOMS, ROOMS.replace("3x3", "2x2"), ROOMS.replace("3x3", "4x4")):
        for seed in range(20):
            world = open_world(environment, seed, 40)
            cells = world.simulator.free_cells()
            assert cells is not None
            x, y, _ = world.moment.pose
            assert len(distances((int(x), int(y)), cells)) == cells.sum() >= 36
            assert not cells[[0, -1]].any() and not cells[:, [0, -1]].any()


def test_loops_come_back_to_where_they_began_and_everything_there_is_met_again() -> None:
    gaps = []
    for episode in played(ROOMS, *range(6), max_steps=512, image_size=40, kind="loops", distance_cells=[6, 12]):
        pairs = revisits(episode.poses, window=12)
        assert are_unchanged(episode.frames, pairs).all()
        gaps.extend((pairs[:, 1] - pairs[:, 0]).tolist())
        since = steps_since_seen(episode)
        assert np.array_equal(np.flatnonzero(since > 12), pairs[:, 1])
        starts = episode.poses[0, :2]
        away = np.abs(episode.poses[:, :2] - starts).sum(axis=1)
        assert (away[:60] == 0).sum() > 5 and away.max() >= 5, "it leaves, and comes back"
        bumps = (episode.actions == FORWARD) & (episode.poses[1:] == episode.poses[:-1]).all(axis=1)
        assert not bumps.any()
    assert len(gaps) > 500 and max(gaps) > 100


def test_different_poses_mostly_look_different() -> None:
    (episode,) = played(ROOMS, 3, max_steps=512, image_size=40, kind="walk")
    poses, first = np.unique(episode.poses, axis=0, return_index=True)
    pictures = np.unique(episode.frames[first].reshape(len(first), -1), axis=0)
    assert len(poses) > 60 and len(pictures) > 0.95 * len(poses)


def test_walks_in_grids_end_nothing_and_come_about() -> None:
    (episode,) = played("MiniGrid-LavaCrossingS9N1-v0", 1, max_steps=150, image_size=56, view_cells=7, kind="walk")
    assert episode.num_steps == 150 and len(np.unique(episode.poses[:, :2], axis=0)) > 12


def test_walks_without_cells_turn_where_they_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYGLET_HEADLESS", "true")
    pytest.importorskip("miniworld")
    (episode,) = played("miniworld:MiniWorld-FourRooms-v0", 2, max_steps=80, image_size=16, kind="walk")
    stopped = (episode.poses[1:] == episode.poses[:-1]).all(axis=1)
    assert not (stopped[1:] & stopped[:-1]).any() and stopped.mean() < 0.3
    assert np.ptp(episode.poses[:, :2], axis=0).max() > 1


def test_loops_without_cells_go_straight_and_come_back_to_the_same_poses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYGLET_HEADLESS", "true")
    pytest.importorskip("miniworld")
    policy = {"kind": "loops", "distance_cells": [8, 12]}
    (episode,) = played("miniworld:MiniWorld-FourRooms-v0", 2, max_steps=120, image_size=16, **policy)
    pairs = revisits(episode.poses, window=50)
    assert len(pairs) >= 20 and are_unchanged(episode.frames, pairs).mean() > 0.9
    assert np.hypot(*(episode.poses[:, :2] - episode.poses[0, :2]).T).max() > 0.5


def test_revisits_of_a_continuous_world_forgive_the_last_digits() -> None:
    step, turn = 0.15, math.pi / 12
    angles = np.cumsum([0.0] + [turn] * 24)
    poses = np.array([(1.0, 2.0, angle) for angle in angles] + [(1.0 + step, 2.0, angles[-1])])
    assert revisits(poses, 4).tolist() == [[0, 24]] and revisits(poses, 24).tolist() == []
    assert revisits(np.zeros((5, 0)), 0).shape == (0, 2)


@pytest.mark.parametrize("view_cells", [5, 7])
def test_balls_move_by_their_rules_whether_they_are_seen_or_not(view_cells: int) -> None:
    """From the pictures alone: where a ball is found after it was hidden follows from where it was and how it moved."""
    length, judged, hidden = view_cells, 0, []
    policy = {"kind": "look_away", "seen_steps": [2, 6], "away_steps": [1, 40]}
    for episode in played(BALLS, *range(4), max_steps=200, image_size=8 * length, view_cells=length, **policy):
        since = steps_since_seen(episode)
        places = [_columns(frame, length) for frame in episode.frames]
        assert [place is not None for place in places] == [bool(s) or not t for t, s in enumerate(since)]
        for time in range(2, len(places)):
            gone = since[time]
            before = time - gone
            here, there, earlier = places[time], places[before], places[before - 1]
            if here is None or there is None or earlier is None or since[before] != 1:
                continue
            judged += 1
            hidden.append(gone)
            assert here[0] == _to_and_fro(earlier[0], there[0], gone, length)
            assert here[1] == (there[1] + gone * (there[1] - earlier[1])) % length
    assert judged > 100 and max(hidden) > 20


def test_a_carousel_turns_one_way_above_and_the_other_below_seen_or_not() -> None:
    length, hidden = 5, []
    policy = {"kind": "look_away", "seen_steps": [1, 3], "away_steps": [1, 40]}
    for episode in played(CAROUSEL, *range(4), max_steps=200, image_size=8 * length, **policy):
        since = steps_since_seen(episode)
        places = [_columns(frame, length) for frame in episode.frames]
        for here, there, gone in ((places[t], places[t - since[t]], since[t]) for t in np.flatnonzero(since)):
            if here is not None and there is not None:
                assert here == ((there[0] + gone) % length, (there[1] - gone) % length)
                hidden.append(gone)
    assert len(hidden) > 100 and max(hidden) > 20


def _columns(frame: np.ndarray, length: int) -> tuple[int, int] | None:
    """In which column each rail has its ball; None when no rail is in sight. Balls are the only bright things there."""
    rails = frame[:16].reshape(2, 8, length, 8, 3)[:, 2:6, :, 2:6].max(axis=(1, 3, 4))
    found = np.argwhere(rails >= 200)
    return (int(found[0, 1]), int(found[1, 1])) if len(found) == 2 else None


def _to_and_fro(earlier: int, column: int, steps: int, length: int) -> int:
    direction = column - earlier
    for _ in range(steps):
        if not 0 <= column + direction < length:
            direction = -direction
        column += direction
    return column


def test_the_agent_of_the_balls_is_stopped_by_walls_and_rails() -> None:
    world = open_world(BALLS, 0, 40)
    for _ in range(9):
        world.step(FORWARD)
    assert world.moment.pose == (3, 3, 3)
    world.step(0)
    for _ in range(9):
        world.step(FORWARD)
    assert world.moment.pose == (1, 3, 2)
    cells = world.simulator.free_cells()
    assert cells is not None and cells.sum() == 15
    with pytest.raises(ValueError, match="cannot hide with view_cells 3"):
        open_world(BALLS, 0, 24, 3)


@pytest.mark.parametrize(
    ("environment", "policy", "said"),
    [
        ("CartPole-v1", {"kind": "recall"}, "recall plays data_pipelines.sources.recall:Recall-v0 and not CartPole-v1"),
        ("MiniGrid-Empty-16x16-v0", {"kind": "look_away"}, "look_away plays .*Balls-v0 and .*Carousel-v0 and not"),
        (RECALLING, {"kind": "loops"}, "loops plays worlds that tell the pose"),
        (RECALLING, {"kind": "walk"}, "walk plays worlds with the actions left, right and forward"),
        (SMALL, {"kind": "memory"}, "always seen: set view_cells"),
        (RECALLING, {"kind": "memory"}, "memory plays MiniGrid-MemoryS7-v0 and its like and not"),
        (RECALLING, {"kind": "recall", "gap_steps": [9, 3]}, "least and most: 9 is more than 3"),
    ],
)
def test_scripts_of_other_worlds_are_refused_before_anything_is_written(
    environment: str, policy: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        record_dataset(tmp_path / "new", small_recording(environment=environment, policies=[policy], image_size=112))
    assert not (tmp_path / "new").exists()
