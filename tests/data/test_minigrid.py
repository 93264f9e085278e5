from __future__ import annotations

import re

import numpy as np
import pytest
from recorded_data import played

from data_pipelines.sources import minigrid
from data_pipelines.sources.episode import Episode
from data_pipelines.sources.families import branch_frames, open_world
from data_pipelines.sources.minigrid import action_names

ENVIRONMENT = "BabyAI-GoToLocalS8N3-v0"
RGB = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "purple": (112, 39, 195),
    "yellow": (255, 255, 0),
    "grey": (100, 100, 100),
}


def record(seed: int, environment: str = ENVIRONMENT, fraction: float = 0.6, image_size: int = 64) -> Episode:
    if fraction == 1.0:
        return played(environment, seed, image_size=image_size, kind="random")[0]
    return played(environment, seed, image_size=image_size, kind="bot", random_action_fraction=fraction)[0]


def test_the_same_seed_gives_the_same_episode() -> None:
    first, second, other = record(5), record(5), record(6)
    assert np.array_equal(first.frames, second.frames) and np.array_equal(first.actions, second.actions)
    assert not np.array_equal(first.frames[0], other.frames[0])


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(12):
        record(seed, "BabyAI-GoToObjMaze-v0", image_size=22 * 8)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("environment", [ENVIRONMENT, "BabyAI-UnlockLocal-v0"])
def test_frames_are_minigrids_own_pictures(environment: str) -> None:
    level = minigrid.open_simulator(environment, 3, 8 * minigrid._make(environment).width)
    for action in (2, 1, 2, 3, 5, 0, 2, 4, 2):
        assert np.array_equal(level.look().frame, level.env.get_frame(highlight=False, tile_size=8))
        level.step(action)


def test_every_branch_is_what_the_environment_really_does() -> None:
    for seed in range(4):
        episode = record(seed)
        for step, action in enumerate(episode.actions):
            branches = branch_frames(ENVIRONMENT, seed, episode.actions[:step].tolist(), image_size=64)
            assert branches.shape == (7, 64, 64, 3) and branches.dtype == np.uint8
            assert np.array_equal(branches[action], episode.frames[step + 1])
    assert len(np.unique(branches[:3], axis=0)) > 1


def test_branching_after_the_end_or_with_an_unknown_action_is_refused() -> None:
    finished = next(e for e in map(record, range(40)) if e.done.any())
    with pytest.raises(ValueError, match=f"seed {finished.seed}: the episode ends at step {finished.num_steps - 1}"):
        branch_frames(ENVIRONMENT, finished.seed, finished.actions.tolist(), image_size=64)
    with pytest.raises(ValueError, match=r"action 7 at step 1 is outside 0\.\.6"):
        branch_frames(ENVIRONMENT, 0, [0, 7], image_size=64)


def test_rewards_and_done_arrive_with_the_next_frame() -> None:
    for episode in map(record, range(30)):
        assert not episode.done[:-1].any()
        assert np.array_equal(episode.rewards > 0, episode.done)


def test_the_pure_bot_solves_the_level() -> None:
    episodes = played(ENVIRONMENT, *range(8), max_steps=40, kind="bot", random_action_fraction=0.0)
    assert all(episode.done[-1] for episode in episodes)


def colour_of(tile: np.ndarray) -> str:
    """The named colour whose hue the tile's most saturated pixel has: small tiles are anti-aliased, so darker."""
    pixels = tile.astype(float)
    pixel = pixels[np.argmax(np.ptp(pixels, axis=1))]
    bright = pixel * 255 / pixel.max() if pixel.max() else pixel
    if np.ptp(pixel) == 0:
        return "grey"
    hues = {name: np.asarray(rgb) * 255 / max(rgb) for name, rgb in RGB.items()}
    return min(hues, key=lambda name: float(np.abs(hues[name] - bright).sum()))


def parse(caption: str) -> tuple[tuple[int, int, int], list[tuple[int, int, str]]]:
    agent, *objects = caption.split("; ")
    matched = re.fullmatch(r"agent facing (\w+) at ([a-z])(\d+)", agent)
    assert matched, caption
    pose = (ord(matched[2]) - ord("a"), int(matched[3]), ("right", "down", "left", "up").index(matched[1]))
    found = [re.fullmatch(r"(\w+) (?:ball|box|key) at ([a-z])(\d+)", part) for part in objects]
    assert all(found), caption
    return pose, [(int(m[3]), ord(m[2]) - ord("a"), m[1]) for m in found if m]


def test_captions_say_what_the_pixels_show() -> None:
    """Objects are found again by colour, in the picture alone: each named cell shows its colour, no other cell any."""
    empty = minigrid.Grid.render_tile(None, tile_size=8).astype(np.uint8)
    for episode in map(record, range(12)):
        for frame, caption, pose in zip(episode.frames, episode.captions, episode.poses, strict=True):
            agent, objects = parse(caption)
            assert agent == tuple(pose)
            assert objects == sorted(objects), "reading order"
            named = {(row, column): colour for row, column, colour in objects}
            for row in range(1, 7):
                for column in range(1, 7):
                    tile = frame[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].reshape(-1, 3)
                    if (row, column) in named:
                        assert colour_of(tile) == named[row, column]
                    elif (column, row) == agent[:2]:
                        assert colour_of(tile) == "red"
                    else:
                        assert np.array_equal(tile, empty.reshape(-1, 3))


def test_doors_say_their_state() -> None:
    captions = {c for seed in range(6) for c in record(seed, "BabyAI-UnlockLocal-v0", 0.0, 22 * 8).captions}
    assert any(re.search(r"locked \w+ door at [a-z]\d+", caption) for caption in captions)


def test_a_bot_that_lost_its_plan_is_replaced_by_random_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: object, action_taken: object = None) -> int:
        raise AssertionError

    monkeypatch.setattr(minigrid.BabyAIBot, "replan", lost)
    assert np.array_equal(record(2, fraction=0.0).actions, record(2, fraction=1.0).actions)


def test_action_names() -> None:
    assert action_names(ENVIRONMENT) == ("left", "right", "forward", "pickup", "drop", "toggle", "done")


@pytest.mark.parametrize(
    ("environment", "image_size", "message"),
    [
        ("BabyAI-GoToLocalS8N33-v0", 64, "BabyAI-GoToLocalS8N3-v0.*extras"),
        (ENVIRONMENT, 60, "8x8 cells.*multiple of 8, e.g. 56 or 64"),
        (ENVIRONMENT, 4, "multiple of 8"),
        ("BabyAI-OpenRedDoor-v0", 90, "9x5 cells and frames are square"),
    ],
)
def test_unsuitable_settings_are_refused(environment: str, image_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_world(environment, 0, image_size)


def test_an_environment_without_a_bot_is_played_at_random() -> None:
    assert record(0, "MiniGrid-Empty-8x8-v0", 1.0).num_steps == 8
