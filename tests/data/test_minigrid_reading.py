"""Pictures read back: exactly where the environment drew them, and what is wrong with those that it did not draw.

Run: pytest tests/data/test_minigrid_reading.py
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from recorded_data import played

from data_pipelines.sources.families import open_judge
from data_pipelines.sources.minigrid_reading import LAWS, GridJudge, Verdict

ROOM = "BabyAI-GoToLocalS8N3-v0"
SIZES = {ROOM: 64, "BabyAI-UnlockLocal-v0": 176, "MiniGrid-LavaCrossingS9N1-v0": 72, "MiniGrid-Empty-Random-6x6-v0": 48}


@functools.cache
def judge(environment: str = ROOM) -> GridJudge:
    return open_judge(environment, SIZES[environment])


def frames(environment: str = ROOM, seeds: int = 3) -> tuple[np.ndarray, list[str]]:
    episodes = [played(environment, seed, image_size=SIZES[environment], kind="random")[0] for seed in range(seeds)]
    return np.concatenate([e.frames for e in episodes]), [caption for e in episodes for caption in e.captions]


def one(picture: np.ndarray, caption: str) -> Verdict:
    return judge().judge([caption], picture[None])[0]


@pytest.mark.parametrize("environment", SIZES)
def test_real_frames_are_read_as_their_captions_say(environment: str) -> None:
    pictures, captions = frames(environment)
    assert ["; ".join(sorted(facts)) for facts, _ in judge(environment).read(pictures)] == [
        "; ".join(sorted(caption.split("; "))) for caption in captions
    ]
    for verdict in judge(environment).judge(captions, pictures):
        assert verdict.is_right and verdict.share == 1.0 and verdict.broken == () and verdict.cells.all()


def cell(column: int, row: int) -> tuple[slice, slice]:
    return slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8)


def wrong_cells(verdict: Verdict) -> set[tuple[int, int]]:
    """(column, row) of each."""
    return {(int(column), int(row)) for row, column in np.argwhere(~verdict.cells)}


def edited() -> tuple[np.ndarray, str, int, int]:
    """A picture to edit, its caption and where its agent stands."""
    pictures, captions = frames()
    where = captions[0].split("; ")[0].split(" at ")[1]
    return pictures[0].copy(), captions[0], ord(where[0]) - ord("a"), int(where[1:])


def test_a_world_without_its_agent_or_with_two_breaks_a_law() -> None:
    picture, caption, column, row = edited()
    assert one(picture, caption).is_right
    agent = picture[cell(column, row)].copy()
    free = next(
        (c, r)
        for r in range(1, 7)
        for c in range(1, 7)
        if (c, r) != (column, row) and f"{chr(ord('a') + c)}{r}" not in caption
    )
    picture[cell(*free)] = agent
    two = one(picture, caption)
    assert two.broken == (LAWS[0],) and two.is_right and two.shown == two.asked + 1
    assert two.share == two.asked / (two.asked + 1), "what nobody asked for does not pay"
    assert wrong_cells(two) == {free}
    picture[cell(column, row)] = picture[cell(*free)] = np.zeros_like(agent)
    none = one(picture, caption)
    assert none.broken == (LAWS[0],) and none.right == none.asked - 1
    assert wrong_cells(none) == {(column, row)}


def test_walls_have_their_places() -> None:
    picture, caption, column, row = edited()
    wall = picture[cell(0, 0)].copy()
    picture[cell(3, 0)] = 0
    assert one(picture, caption).broken == (LAWS[1],)
    assert wrong_cells(one(picture, caption)) == {(3, 0)}
    picture[cell(3, 0)] = wall
    assert one(picture, caption).broken == ()
    picture[cell(1 if column != 1 else 2, row)] = wall
    assert LAWS[1] in one(picture, caption).broken
    assert (1 if column != 1 else 2, row) in wrong_cells(one(picture, caption))


def test_what_does_not_exist_is_told_and_noise_is_not() -> None:
    picture, caption, _, _ = edited()
    noise = np.random.default_rng(0).integers(-10, 11, picture.shape)
    assert one((picture.astype(int) + noise).clip(0, 255).astype(np.uint8), caption).is_right
    picture[cell(0, 3)] = (255, 0, 255)
    assert LAWS[2] in one(picture, caption).broken
    assert wrong_cells(one(picture, caption)) == {(0, 3)}


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match="pictures of CartPole-v1 cannot be judged"):
        open_judge("CartPole-v1", 64)
    with pytest.raises(ValueError, match="looks like .* take a larger data.recording.image_size"):
        open_judge("BabyAI-UnlockLocal-v0", 22 * 4)
    with pytest.raises(ValueError, match="a prompt is empty"):
        judge().judge([""], frames()[0][:1])
