"""Events: a sentence comes true in the world, whether it was drawn, replayed or typed, and its shard keeps it.

Run: pytest tests/data/test_events.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from recorded_data import ENVIRONMENT, contents, played, small_recording

from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.stats import dataset_stats
from data_pipelines.sources.episode import Event, decode_episode, encode_episode
from data_pipelines.sources.families import branch_frames, open_world
from data_pipelines.sources.recording import record_dataset
from data_pipelines.sources.sample import decode_sample
from data_pipelines.sources.world import World

LEFT, RIGHT, FORWARD, DONE = 0, 1, 2, 6
ROOMS = "BabyAI-SynthSeq-v0"
NOTHING = "MiniGrid-Empty-8x8-v0"


def things(world: World) -> set[str]:
    """What the caption names besides the agent."""
    return set(world.moment.caption.split("; ")[1:])


@pytest.mark.parametrize(
    ("place", "turns", "cell"),
    [("ahead", 0, "c1"), ("two cells ahead", 0, "d1"), ("on the right", 0, "b2"), ("on the left", 1, "c1")],
)
def test_things_appear_where_the_sentence_says(place: str, turns: int, cell: str) -> None:
    """The agent of an empty room begins in its corner at b1, facing right."""
    world = open_world(NOTHING, 0, 64)
    for _ in range(turns):
        world.step(RIGHT)
    before, frame = things(world), world.frame
    world.make_happen(f"A red  ball appears {place}.")
    assert np.array_equal(world.frame, frame), "the next frame is the first to show it"
    world.step(RIGHT)
    assert things(world) - before == {f"red ball at {cell}"}


def test_things_vanish_and_turn_another_colour_and_block_the_way() -> None:
    world = open_world(NOTHING, 0, 64)
    world.make_happen("a blue key appears ahead")
    world.step(FORWARD)
    assert world.moment.pose == (1, 1, 0) and "blue key at c1" in things(world)
    world.make_happen("the blue key turns grey")
    world.step(LEFT)
    assert "grey key at c1" in things(world) and world.moment.pose == (1, 1, 3)
    world.make_happen("the grey key vanishes")
    world.step(RIGHT)
    world.step(FORWARD)
    assert world.moment.pose == (2, 1, 0) and not {thing for thing in things(world) if "key" in thing}


def test_doors_open_and_close() -> None:
    world = open_world(ROOMS, 1, 176)
    door = next(thing for thing in sorted(things(world)) if thing.startswith("closed"))
    name = door.removeprefix("closed ")
    world.make_happen(f"the {name} opens")
    world.step(DONE)
    assert f"open {name}" in things(world) and door not in things(world)
    world.make_happen(f"the {name} closes")
    world.step(DONE)
    assert door in things(world)


def test_two_that_look_alike_are_told_apart_by_their_place() -> None:
    world = open_world(NOTHING, 0, 64)
    for place in ("ahead", "on the right"):
        world.make_happen(f"a red box appears {place}")
    with pytest.raises(ValueError, match="there are 2 of red box: say at c1 or at b2"):
        world.make_happen("the red box vanishes")
    sentences = [text for kind in world.simulator.possible_events() for text in kind]
    assert "the red box at b2 vanishes" in sentences and "the red box vanishes" not in sentences
    world.make_happen("the red box at b2 turns green")
    world.step(DONE)
    assert things(world) >= {"red box at c1", "green box at b2"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("it rains", "'it rains' cannot happen here. What can: a red ball appears ahead"),
        ("a red ball appears on the left", "nothing can appear on the left: there is no free cell"),
        ("a pink ball appears ahead", "there is no colour pink here, only"),
        ("the red ball vanishes", "there is no red ball to be seen"),
        ("the red ball at d4 vanishes", "there is no red ball at d4"),
        ("the green box opens", "doors open and close, other things vanish"),
    ],
)
def test_what_cannot_happen_is_told_and_changes_nothing(text: str, said: str) -> None:
    world, same = (open_world(NOTHING, 0, 64) for _ in range(2))
    for one in (world, same):
        one.make_happen("a green box appears ahead")
    with pytest.raises(ValueError, match=said):
        world.make_happen(text)
    assert np.array_equal(world.step(DONE).frame, same.step(DONE).frame)


def test_every_possible_event_can_happen_and_shows() -> None:
    for environment, size in ((ENVIRONMENT, 64), (ROOMS, 176)):
        world = open_world(environment, 2, size)
        quiet = world.snapshot()
        frame = world.step(DONE).frame
        world.restore(quiet)
        for text in [text for kind in world.simulator.possible_events() for text in kind]:
            world.make_happen(text)
            assert not np.array_equal(world.step(DONE).frame, frame), text
            world.restore(quiet)


def test_drawn_events_leave_what_the_mission_asks_for_alone() -> None:
    for seed in range(20):
        world = open_world(ENVIRONMENT, seed, 64)
        asked = " ".join(world.mission.split()[-2:])  # "go to the red ball"
        for kind in world.simulator.possible_events():
            assert not [text for text in kind if asked in text], world.mission
        locked = open_world("BabyAI-UnlockLocal-v0", seed, 176)
        (door,) = [thing for thing in things(locked) if thing.startswith("locked")]
        kinds = locked.simulator.possible_events()
        assert not [t for kind in kinds for t in kind if f"{door.split()[1]} key" in t], "it opens the door"


def test_recorded_events_are_replayed_and_branched() -> None:
    episodes = [episode for episode in played(ENVIRONMENT, *range(30), event_fraction=1.0) if episode.events]
    assert len(episodes) >= 15 and len({event.step for episode in episodes for event in episode.events}) > 4
    shown = 0
    for episode in episodes[:8]:
        ((step, _),) = episode.events
        for at in {step, max(0, step - 1), episode.num_steps - 1}:
            branches = branch_frames(ENVIRONMENT, episode.seed, episode.actions[:at].tolist(), 64, episode.events)
            assert np.array_equal(branches[episode.actions[at]], episode.frames[at + 1])
        untold = branch_frames(ENVIRONMENT, episode.seed, episode.actions[:step].tolist(), 64)
        shown += not np.array_equal(untold[episode.actions[step]], episode.frames[step + 1])
    assert shown >= 6, "but for what is picked up at once"


def test_events_are_recorded_whatever_the_processes_and_change_no_other_episode(recorded: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        record_dataset(tmp_path / str(processes), small_recording(event_fraction=0.5), processes=processes)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    readers = [ShardReader(folder / "train") for folder in (recorded, tmp_path / "1")]
    eventful = 0
    for number in range(len(readers[0])):
        (_, quiet), (key, fields) = (reader.read(number) for reader in readers)
        events = decode_episode(key, fields).events
        assert decode_sample(key, fields).events == events
        assert (fields == quiet) == (not events)
        eventful += bool(events)
    assert 1 <= eventful <= 7
    assert dataset_stats(tmp_path / "1")["train"]["event_fraction"] == eventful / len(readers[0])


def test_worlds_without_events_say_so(tmp_path: Path) -> None:
    for environment in ("ALE/Pong-v5", "CartPole-v1"):
        with pytest.raises(ValueError, match="because somebody says so: 'the ball vanishes'"):
            open_world(environment, 0, 64).make_happen("the ball vanishes")
        changes = {"environment": environment, "policies": [{"kind": "random"}], "event_fraction": 0.1}
        with pytest.raises(ValueError, match=rf"nothing happens in {environment} .* set event_fraction to 0"):
            record_dataset(tmp_path / "new", small_recording(**changes))
    assert not (tmp_path / "new").exists()


def test_older_recordings_have_no_events_and_wrong_ones_are_refused() -> None:
    (episode,) = played(ENVIRONMENT, 0)
    fields = encode_episode(episode)
    about = json.loads(fields["json"])
    old = {name: value for name, value in about.items() if name not in ("events", "policy")}
    back = decode_episode("old", fields | {"json": json.dumps(old).encode()})
    assert back.events == () and back.policy == ""
    for wrong in ("x", [[0, "x"]], [{"step": 0.5, "text": "x"}], [{"step": 0, "text": 3}], [{"step": 0}]):
        with pytest.raises(ValueError, match="sample new: field json has"):
            decode_episode("new", fields | {"json": json.dumps(about | {"events": wrong}).encode()})
    for steps in ([episode.num_steps], [-1], [2, 1]):
        wrong = [Event(step, "x")._asdict() for step in steps]
        with pytest.raises(ValueError, match="not in order or outside its 8 steps"):
            decode_episode("new", fields | {"json": json.dumps(about | {"events": wrong}).encode()})
