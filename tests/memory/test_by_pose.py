"""Recall by place: where a world is, reckoned from what was seen and done, and which frames are nearest to it.

Run: pytest tests/memory/test_by_pose.py
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_memory import row, segments
from toy_memories import BY_POSE, SIDE, memory_of, remembering, toy_odometer
from toy_sequences import BUILDER, VOCABULARY, toy_episode
from toy_walks import VIEW, Walked, walked

from data_pipelines.sources.moves import standard_poses
from data_pipelines.sources.sample import UNKNOWN_ACTION
from unimodel.backbone.model import Backbone
from unimodel.batch import pack
from unimodel.config_memory import EpisodicConfig, MemoryConfig
from unimodel.config_objectives import TeacherForcingConfig
from unimodel.memory.build import build_memory
from unimodel.memory.by_pose import RESOLUTION, PoseMemory
from unimodel.memory.poses import apart, moved
from unimodel.memory.state import State, part_of
from unimodel.objectives.asked import ask_everything
from unimodel.objectives.corruption import corrupt
from unimodel.tokenizers.odometer import Odometer
from unimodel.tokenizers.train_odometer import train_odometer
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.vocabulary import UNKNOWN, Modality

STEPS, CAPACITY = 4, 20
CPU = torch.device("cpu")
FIRST_CODE = VOCABULARY.range_of(Modality.IMAGE).start
RECALLING = {"kind": "episodic", "by": "pose", "capacity_frames": CAPACITY, "recalled_frames": 4}
WINDOW = {"kind": "window", "frames": 3}


@pytest.fixture(scope="module")
def odometer() -> Odometer:
    walks = [each.walk for each in walked(1000, 60)]
    return train_odometer(walks, VOCABULARY, 0, lambda step, loss: None, num_steps=200).odometer


def rooms_memory(odometer: Odometer, *others: dict[str, object]) -> Backbone:
    return remembering([*others, RECALLING], odometer, VIEW, segment_frames=STEPS, segment_tokens=512)


def recalling(backbone: Backbone) -> PoseMemory:
    mechanism = memory_of(backbone).mechanisms["episodic"]
    assert isinstance(mechanism, PoseMemory)
    return mechanism


def lived(backbone: Backbone, walked: Walked) -> Iterator[tuple[int, State]]:
    """How many frames of the episode are written, and what is then remembered, segment after segment."""
    steps, memory = len(walked.actions), memory_of(backbone)
    text = toy_episode(1)
    episode = TokenisedEpisode(
        key="walk",
        frames=walked.codes,
        audio=np.zeros((steps + 1, 0), dtype=np.int64),
        actions=walked.actions,
        rewards=np.zeros(steps),
        done=np.zeros(steps, dtype=bool),
        mission=text.mission,
        captions=text.captions[:1],
    )
    settings = TeacherForcingConfig(kind="teacher_forcing", full_fraction=1.0, context_noise_fraction=0.0)
    state = memory.init(1, CPU)
    for first in range(0, steps, STEPS):
        sequence = BUILDER.interaction(episode, first, STEPS + 1)
        corrupted = corrupt(sequence, VOCABULARY, settings, 0, np.random.default_rng(first))
        batch = pack([[corrupted]], 512, 0)
        with torch.no_grad():
            state = memory.write(memory.pass_segment(backbone, batch, state)[0], state)
        yield first + STEPS, part_of(state, "episodic")


def true_poses(walked: Walked) -> np.ndarray:
    """From where the episode begins, looking along x."""
    poses = standard_poses(walked.poses)
    x, y = (poses - poses[0])[:, :2].T
    cos, sin = math.cos(poses[0, 2]), math.sin(poses[0, 2])
    return np.stack([cos * x + sin * y, cos * y - sin * x, poses[:, 2] - poses[0, 2]], axis=1)


def nearest(poses: np.ndarray, written: int, newer: int, wanted: int) -> list[int]:
    """By brute force over true poses: times of the nearest frames that are kept, each pose once."""
    here = poses[written]
    found: list[tuple[float, int, tuple[int, ...]]] = []
    for time in range(max(0, written - CAPACITY), written - newer):
        x, y, angle = poses[time] - here
        quarters = round(angle / (math.pi / 2)) % 4
        far = math.hypot(x, y) + 0.5 * math.pi / 2 * min(quarters, 4 - quarters)
        found.append((round(far, 6), -time, (round(x), round(y), quarters)))
    chosen: dict[tuple[int, ...], int] = {}
    for _, negative, pose in sorted(found):
        chosen.setdefault(pose, -negative)
    return list(chosen.values())[:wanted]


@pytest.mark.parametrize("others", [(), (WINDOW,)], ids=["alone", "beside a window"])
@pytest.mark.parametrize("number", [0, 3, 6])
def test_the_frames_nearest_to_here_are_recalled(odometer: Odometer, number: int, others: tuple) -> None:
    """Exactly those that true poses say, in rooms that nobody has seen, while old frames are overwritten. The
    world itself is never told a pose."""
    backbone, walk = rooms_memory(odometer, *others), walked(7000, 12)[number]
    poses, newer = true_poses(walk), 3 if others else 0
    counts = []
    for written, state in lived(backbone, walk):
        here = state["pose"][0].numpy()
        np.testing.assert_allclose(here[:2], poses[written, :2], atol=1e-4)
        assert abs(math.remainder(here[2] - poses[written, 2], 2 * math.pi)) < 1e-4
        places, found = recalling(backbone).recall(state)
        expected = nearest(poses, written, newer, wanted=4)
        assert places[0, found[0]].tolist() == [time % CAPACITY for time in expected]
        shown = state["ids"][0, places[0, found[0]]] - FIRST_CODE
        np.testing.assert_array_equal(shown.numpy(), walk.codes[expected].reshape(len(expected), -1))
        counts.append(len(expected))
    assert max(counts) == 4 and len(counts) == 12


@pytest.mark.parametrize(("step", "turns"), [(1.0, 4), (0.15, 24)], ids=["a grid", "MiniWorld"])
def test_a_long_life_that_walks_in_circles_still_knows_where_it_is(step: float, turns: int) -> None:
    """12,000 steps and turns: sums of 32 bits, and yet closer than two poses that are one."""
    pose, moves = torch.zeros(3), torch.tensor([[step, 0.0, 0.0], [0.0, 0.0, 2 * math.pi / turns]])
    for _ in range(6000 // turns * turns):
        pose = moved(moved(pose, moves[0]), moves[1])
    assert apart(pose, torch.zeros(3), 1.0) < RESOLUTION


def test_a_frame_seen_many_times_from_one_place_is_recalled_once_and_as_it_was_last(odometer: Odometer) -> None:
    backbone = rooms_memory(odometer)
    state = dict(recalling(backbone).init(1, CPU))
    state["present"], state["count"] = torch.ones_like(state["present"]), torch.tensor([CAPACITY])
    state["poses"] = torch.zeros_like(state["poses"])
    state["poses"][0, 5:8, 2] = torch.tensor([1.0, 1.0, 1.0 + 2 * math.pi])
    places, found = recalling(backbone).recall(state)
    assert found[0].tolist() == [True, True, False, False] and places[0, :2].tolist() == [CAPACITY - 1, 7]


def test_where_a_frame_was_seen_from_changes_what_is_read(odometer: Odometer) -> None:
    """The same frame, seen from here and from elsewhere; turned and moved together, it is the same again."""
    backbone = rooms_memory(odometer)
    mechanism = recalling(backbone)
    *_, (_, state) = lived(backbone, walked(7000, 12)[0])
    quarter = torch.tensor([0.0, 0.0, math.pi / 2])

    def turned(pose: torch.Tensor) -> torch.Tensor:
        return torch.stack([-pose[..., 1] + 7, pose[..., 0] - 2, pose[..., 2] + math.pi / 2], dim=-1)

    with torch.no_grad():
        here = mechanism.read(state, backbone.embed).embeds
        elsewhere = {**state, "poses": turned(state["poses"]), "pose": turned(state["pose"])}
        assert torch.allclose(mechanism.read(elsewhere, backbone.embed).embeds, here, atol=1e-4)
        other = mechanism.read({**state, "pose": state["pose"] + quarter}, backbone.embed).embeds
    assert (other - here).abs().max() > 1e-3


def test_what_is_written_of_a_segment_is_what_its_frames_and_actions_say() -> None:
    """The last frame too, which the next segment begins with: where that is is known before it is read."""
    backbone = remembering([BY_POSE])
    memory = memory_of(backbone)
    batch = row(segments(1)[:1])
    with torch.no_grad():
        empty = memory.init(1, CPU)
        segment, _ = memory.pass_segment(backbone, batch, empty)
        state = part_of(memory.write(segment, empty), "episodic")
        pose = torch.zeros(3)
        for time in range(2):
            move = toy_odometer().foretold(segment.ids[0, time], segment.actions[0, time], segment.following[0, time])
            torch.testing.assert_close(state["poses"][0, time], pose)
            cos, sin = pose[2].cos(), pose[2].sin()
            step = torch.stack([cos * move[0] - sin * move[1], sin * move[0] + cos * move[1], move[2]])
            pose = pose + step
        torch.testing.assert_close(state["pose"][0], pose)
    episode = toy_episode(1, 6, SIDE)
    np.testing.assert_array_equal(segment.following[0].numpy() - FIRST_CODE, episode.frames[1:3].reshape(2, -1))
    np.testing.assert_array_equal(VOCABULARY.codes(Modality.ACTION, segment.actions[0].numpy()), episode.actions[:2])


def test_a_segment_without_a_step_moves_nobody_and_unknown_actions_are_no_error() -> None:
    """A picture with its caption stands in a row like a segment; films have no actions."""
    backbone = remembering([BY_POSE])
    memory = memory_of(backbone)
    film = replace(toy_episode(1, 2, SIDE), actions=np.full(2, UNKNOWN_ACTION))
    alone = BUILDER.image_to_text(film.frames[0], film.captions[0], "picture")
    asked = [ask_everything(each, VOCABULARY) for each in (alone, BUILDER.interaction(film, 0, 3))]
    with torch.no_grad():
        segment, _ = memory.pass_segment(backbone, pack([[one] for one in asked], 128, 0), memory.init(2, CPU))
        state = part_of(memory.write(segment, memory.init(2, CPU)), "episodic")
    assert state["count"].tolist() == [0, 2] and state["pose"][0].tolist() == [0.0, 0.0, 0.0]
    assert (segment.actions == UNKNOWN).all()


def test_of_several_agents_the_first_is_followed() -> None:
    backbone = remembering([BY_POSE])
    society = replace(toy_episode(2, 2, SIDE), actions=np.array([[3, 1], [UNKNOWN_ACTION, 2]]))
    asked = ask_everything(BUILDER.interaction(society, 0, 3), VOCABULARY)
    with torch.no_grad():
        memory = memory_of(backbone)
        segment, _ = memory.pass_segment(backbone, pack([[asked]], 128, 0), memory.init(1, CPU))
    assert segment.actions[0].tolist() == [VOCABULARY.ids(Modality.ACTION, np.array([3]))[0], UNKNOWN]


def test_settings_that_cannot_be_are_refused(odometer: Odometer) -> None:
    with pytest.raises(ValueError, match=r"odometer is of pictures of 25 codes, and these have 16"):
        remembering([BY_POSE], odometer)
    with pytest.raises(ValueError, match=r"must hold the frames of the window \(5\), which are not recalled"):
        remembering([WINDOW | {"frames": 5}, BY_POSE])
    with pytest.raises(ValueError, match="needs an odometer.*unimodel tokenizer train"):
        build_memory(MemoryConfig(mechanisms=(EpisodicConfig(kind="episodic", by="pose"),)), (4, 4), 32, 0.1, 1, 0)
    with pytest.raises(ValueError, match="by"):
        EpisodicConfig.model_validate({"kind": "episodic", "by": "place"})
