"""A session of play, without a network: recordings, failures, real time, wishes that cannot be granted.

Run: pytest tests/world/test_play_session.py
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from played_ground import DONE, FORWARD, LEFT, RIGHT, Result, played

from data_pipelines.shards.index import read_manifest
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.verify import verify_dataset
from data_pipelines.sources.episode import decode_episode
from data_pipelines.sources.sample import decode_sample
from unimodel.tokenizers.tokenise import tokenise_sample
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.play import recording
from unimodel.world.play.playground import Playground
from unimodel.world.play.protocol import Notice, ServerMessage, State
from unimodel.world.play.session import Session


class Told:
    """A session with what it says."""

    def __init__(self, ground: Playground) -> None:
        self.messages: list[ServerMessage] = []
        self.session = Session(ground, self.messages.append)

    async def taps(self, *actions: int) -> None:
        for action in actions:
            self.session.press(action)
            self.session.release(action)
            before = len(self.messages)
            while not any(message.type == "frame" for message in self.messages[before:]):
                await asyncio.sleep(0.001)

    def state(self) -> State:
        return next(message for message in reversed(self.messages) if isinstance(message, State))

    def notices(self) -> list[Notice]:
        return [message for message in self.messages if isinstance(message, Notice)]


def in_session(run: LoadedRun, story: Callable[[Told], Awaitable[Result]], **limits: Any) -> Result:
    async def whole(ground: Playground) -> Result:
        told = Told(ground)
        await told.session.begin()
        clock = asyncio.create_task(told.session.run())
        try:
            return await story(told)
        finally:
            clock.cancel()
            await asyncio.gather(clock, return_exceptions=True)
            await told.session.end()

    return played(run, whole, **limits)


def test_a_recording_is_a_data_set_that_verifies_and_that_training_reads(wild: LoadedRun) -> None:
    async def story(told: Told) -> str:
        session = told.session
        await told.taps(LEFT)
        await session.record(True)
        await told.taps(FORWARD, FORWARD, RIGHT)
        await session.rewind(2)
        await told.taps(LEFT)
        await session.tell("go to the red ball")
        await told.taps(FORWARD)
        await session.restart(1)
        await told.taps(RIGHT)
        await session.record(False)
        assert told.state().recording.folder is not None
        return str(told.state().recording.folder)

    folder = Path(in_session(wild, story))
    assert folder.is_relative_to(wild.run.path) and verify_dataset(folder).ok
    metadata = read_manifest(folder).metadata
    assert metadata["dreamed_by"] == {"run": str(wild.run.path), "stage": "interactive", "step": 2}
    assert metadata["action_names"][:3] == ["left", "right", "forward"]
    reader = ShardReader(folder)
    samples = [reader.read(i) for i in range(len(reader))]
    episodes = [decode_episode(key, fields) for key, fields in samples]
    assert [e.actions.tolist() for e in episodes] == [[FORWARD, FORWARD, RIGHT], [LEFT], [FORWARD], [RIGHT]]
    assert episodes[2].mission == "go to the red ball" and episodes[0].environment == ""
    assert all(np.isnan(e.rewards).all() for e in episodes)
    assert np.array_equal(
        episodes[0].frames[1], episodes[1].frames[0]
    )  # step 2, from which the second went its own way
    assert all(json.loads(fields["json"])["dreamed_by"]["step"] == 2 for _, fields in samples)
    tokens = tokenise_sample(decode_sample(*samples[0]), wild.bundle)
    assert len(wild.bundle.builder.interaction(tokens, 0, 4).layout.pictures) == 4


def test_events_are_recorded_in_their_place_also_in_later_windows(eventful: LoadedRun, monkeypatch: Any) -> None:
    monkeypatch.setattr(recording, "MOST_FRAMES", 3)

    async def story(told: Told) -> str:
        await told.session.record(True)
        await told.taps(LEFT, LEFT, LEFT)
        await told.session.tell("a red ball appears ahead")
        await told.taps(FORWARD, DONE)
        await told.session.record(False)
        return str(told.state().recording.folder)

    folder = Path(in_session(eventful, story))
    assert verify_dataset(folder).ok
    reader = ShardReader(folder)
    episodes = [decode_episode(*reader.read(i)) for i in range(len(reader))]
    assert [e.actions.tolist() for e in episodes] == [[LEFT, LEFT], [LEFT, FORWARD], [DONE]]
    assert [list(e.events) for e in episodes] == [[], [(1, "a red ball appears ahead")], []]


def test_a_recording_without_a_step_leaves_nothing(wild: LoadedRun) -> None:
    before = sorted((wild.run.path / "played").glob("*"))

    async def story(told: Told) -> None:
        await told.session.record(True)
        await told.session.record(False)
        assert [notice.code for notice in told.notices()] == ["nothing_recorded"]
        assert not told.state().recording.on and told.state().recording.folder is None

    in_session(wild, story)
    assert sorted((wild.run.path / "played").glob("*")) == before


def test_what_was_being_recorded_is_written_when_the_session_ends(wild: LoadedRun) -> None:
    before = set((wild.run.path / "played").glob("*"))

    async def story(told: Told) -> None:
        await told.session.record(True)
        await told.taps(LEFT, FORWARD)

    in_session(wild, story)
    (folder,) = set((wild.run.path / "played").glob("*")) - before
    assert verify_dataset(folder).ok and verify_dataset(folder).num_samples == 1


def test_a_step_that_fails_is_told_and_the_world_can_go_on(wild: LoadedRun, monkeypatch: Any) -> None:
    async def story(told: Told) -> None:
        dream = told.session.ground.model.dreams[0]
        step = dream.step
        monkeypatch.setattr(dream, "step", _failing)
        told.session.press(LEFT)
        while not told.notices():
            await asyncio.sleep(0.001)
        told.session.release()
        assert "out of memory" in told.notices()[0].text and told.state().step == 0
        monkeypatch.setattr(dream, "step", step)
        await told.taps(FORWARD)
        assert told.messages[-1].type == "frame" and told.messages[-1].step == 1

    in_session(wild, story)


def _failing(*_: Any) -> np.ndarray:
    raise RuntimeError("out of memory")


def test_a_full_history_is_told_and_the_world_stays(wild: LoadedRun) -> None:
    async def story(told: Told) -> None:
        await told.taps(LEFT, LEFT)
        told.session.press(LEFT)
        while not told.notices():
            await asyncio.sleep(0.001)
        assert told.notices()[0].code == "full" and told.state().step == 2
        told.session.release()
        await told.session.restart(None)
        await told.taps(FORWARD)

    in_session(wild, story, max_moments=3)


def test_real_time_goes_on_by_itself_until_it_is_paused(wild: LoadedRun) -> None:
    async def story(told: Told) -> None:
        told.session.set_mode("real_time")
        while sum(message.type == "frame" for message in told.messages) < 3:
            await asyncio.sleep(0.001)
        told.session.pause(True)
        assert told.state().paused and not told.session.is_ticking
        await told.session.rewind(1)
        frames = sum(message.type == "frame" for message in told.messages)
        await told.taps(FORWARD)  # paused: a key takes one step
        assert sum(message.type == "frame" for message in told.messages) == frames + 1

    in_session(wild, story)


def test_one_step_may_be_asked_for(wild: LoadedRun) -> None:
    async def story(told: Told) -> None:
        told.session.single_step()
        while not any(message.type == "frame" and message.action == DONE for message in told.messages):
            await asyncio.sleep(0.001)

    in_session(wild, story)


@pytest.mark.parametrize(
    ("wish", "what"),
    [
        (lambda session: session.rewind(9), "steps 0 to 0"),
        (lambda session: session.switch(1), "branches 0 to 0"),
        (lambda session: session.restart(99), "episodes 0 to 1"),
        (lambda session: session.compare(True), "--compare"),
        (lambda session: session.vote("left"), "no trial"),
    ],
)
def test_a_wish_that_cannot_be_granted_changes_nothing(
    wild: LoadedRun, wish: Callable[[Session], Awaitable[None]], what: str
) -> None:
    async def story(told: Told) -> None:
        before = told.session.state()
        with pytest.raises(ValueError, match=what):
            await wish(told.session)
        assert told.session.state() == before
        await told.taps(LEFT)

    in_session(wild, story)


def test_an_action_outside_the_space_is_refused(wild: LoadedRun) -> None:
    async def story(told: Told) -> None:
        with pytest.raises(ValueError, match="0 to 6, not 7"):
            told.session.press(7)

    in_session(wild, story)
