"""One played world and its session, without a network: rewinding, the real twin, text, recordings, failures.

Run: pytest tests/world/test_play_world.py
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest

from data_pipelines.shards.index import read_manifest
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.verify import verify_dataset
from data_pipelines.sources.episode import decode_episode
from data_pipelines.sources.families import open_world
from data_pipelines.sources.sample import decode_sample
from data_pipelines.sources.world import Step
from unimodel.tokenizers.tokenise import tokenise_sample
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.play import recording
from unimodel.world.play import twin as twin_module
from unimodel.world.play.difference import decode_png
from unimodel.world.play.played_world import NO_ENVIRONMENT, PlayedWorld
from unimodel.world.play.playground import Playground, open_playground
from unimodel.world.play.protocol import Notice, ServerMessage, State
from unimodel.world.play.session import Session
from unimodel.world.play.settings import Limits, PlaySettings
from unimodel.world.play.twin import Twin

Result = TypeVar("Result")
LEFT, RIGHT, FORWARD, DONE = 0, 1, 2, 6
PASSES = 2


def played(run: LoadedRun, story: Callable[[Playground], Awaitable[Result]], **limits: Any) -> Result:
    """Runs a story on a playground of its own."""

    async def whole() -> Result:
        ground = open_playground([run], PlaySettings(passes=PASSES, limits=Limits(**limits)))
        try:
            return await story(ground)
        finally:
            ground.close()

    return asyncio.run(whole())


async def _begin(ground: Playground) -> PlayedWorld:
    return await PlayedWorld.begin(ground, 0, [0], beside_reality=True)


async def _act(world: PlayedWorld, *actions: int) -> list[bytes]:
    """The codes after each action."""
    codes = []
    for action in actions:
        await world.advance(action, PASSES)
        codes.append(world.history.here().codes[0].tobytes())
    return codes


def test_the_same_way_leads_to_the_same_place_however_it_was_come_to(wild: LoadedRun) -> None:
    async def story(ground: Playground) -> None:
        world = await _begin(ground)
        way = [LEFT, FORWARD, RIGHT, FORWARD, FORWARD, LEFT, RIGHT, FORWARD]  # twice the model's window
        first = await _act(world, *way)
        assert len(set(first)) > 6  # a world in which nothing changed would prove nothing
        for step in range(1, len(way)):
            world.history.switch(0)
            world.history.rewind(step)
            world.arrive()
            assert world.history.here().codes[0].tobytes() == first[step - 1]
            assert await _act(world, *way[step:]) == first[step:]
        other = await _begin(ground)
        assert await _act(other, *way[:3], LEFT, *way[4:]) != first

    played(wild, story)


def test_a_branch_goes_its_own_way_and_the_old_one_goes_on_as_if_there_were_none(wild: LoadedRun) -> None:
    async def story(ground: Playground) -> None:
        world = await _begin(ground)
        before = await _act(world, LEFT, FORWARD)
        world.history.fork()
        branched = await _act(world, RIGHT, RIGHT)
        world.history.switch(0)
        world.arrive()
        after = await _act(world, FORWARD, FORWARD)
        alone = await _begin(ground)
        assert await _act(alone, LEFT, FORWARD, FORWARD, FORWARD) == before + after
        assert branched != after
        world.history.switch(1)
        assert world.history.actions() == [LEFT, FORWARD, RIGHT, RIGHT]

    played(wild, story)


def test_what_a_world_is_told_counts_from_the_next_step_and_is_forgotten_by_going_back(wild: LoadedRun) -> None:
    async def story(ground: Playground) -> None:
        world = await _begin(ground)
        mission = world.mission
        plain = await _act(world, LEFT, FORWARD, FORWARD)
        world.history.rewind(1)
        world.arrive()
        await world.tell("put the ball next to the key")
        told = await _act(world, FORWARD, FORWARD)
        assert told != plain[1:]
        assert [moment.mission for moment in world.history.path()][2:] == ["put the ball next to the key"] * 2
        world.history.rewind(0)
        world.arrive()
        assert world.mission == mission

    played(wild, story)


def test_an_event_happens_with_the_next_step_in_the_dream_and_in_reality(eventful: LoadedRun) -> None:
    async def story(ground: Playground) -> None:
        assert ground.hears_events
        world = await _begin(ground)
        assert any("appears" in text for text in world.possible)
        plain = await _act(world, LEFT, DONE, DONE)
        nothing_happened = decode_png(world.history.here().pictures[1])
        world.history.rewind(1)
        world.arrive()
        event = _appears(ground, [LEFT])
        await world.tell(event)
        assert world.coming == (event,)
        told = await _act(world, DONE, DONE)
        assert world.coming == () and world.history.events() == [(1, event)]
        assert told[0] != plain[1]
        size = nothing_happened.shape[0]
        opened = open_world("BabyAI-GoToLocalS8N3-v0", ground.starts.read(0).seed, size)
        opened.step(LEFT)
        opened.make_happen(event)
        expected = [opened.step(DONE).frame, opened.step(DONE).frame][-1]
        shown = decode_png(world.history.here().pictures[1])
        assert np.array_equal(shown, expected) and not np.array_equal(shown, nothing_happened)
        assert world.history.here().real_note is None and world.mission == ground.starts.read(0).mission

        world.history.rewind(1)
        world.arrive()
        assert await _act(world, DONE, DONE) == plain[1:]  # before it was said

    played(eventful, story)


def _appears(ground: Playground, actions: list[int]) -> str:
    """Something that can appear after these actions."""
    episode = ground.starts.read(0)
    opened = open_world(episode.environment, episode.seed, episode.frames.shape[1])
    for action in actions:
        opened.step(action)
    return next(text for group in opened.simulator.possible_events() for text in group if "appears" in text)


def test_what_reality_cannot_do_the_dream_does_alone_and_that_is_told(eventful: LoadedRun) -> None:
    async def story(ground: Playground) -> None:
        world = await _begin(ground)
        await world.tell("the unicorn arrives")
        await _act(world, LEFT)
        note = world.history.here().real_note
        assert note is not None and "did not happen in the real environment" in note and "unicorn" in note
        assert world.history.here().pictures[1] and world.history.events() == [(0, "the unicorn arrives")]
        await _act(world, LEFT)
        assert world.history.here().real_note is None

    played(eventful, story)


def test_not_everything_happens_at_once(eventful: LoadedRun) -> None:
    async def story(ground: Playground) -> None:
        world = await _begin(ground)
        for _ in range(4):
            await world.tell("a red ball appears ahead")
        with pytest.raises(ValueError, match="take a step first"):
            await world.tell("a red ball appears ahead")

    played(eventful, story)


@pytest.mark.parametrize(
    ("text", "what"), [("ab " * 130, "tokens; this model takes 1 to"), ("go <|eos|>", "mark of the tokenizer")]
)
def test_a_text_that_no_model_could_read_is_refused(wild: LoadedRun, text: str, what: str) -> None:
    async def story(ground: Playground) -> None:
        world = await _begin(ground)
        with pytest.raises(ValueError, match=what):
            await world.tell(text)
        assert world.mission != text

    played(wild, story)


# --- beside reality -------------------------------------------------------------------------------------------------


def test_the_real_environment_gets_the_same_actions_also_after_going_back(wild: LoadedRun) -> None:
    async def story(ground: Playground) -> None:
        episode = ground.starts.read(0)
        size = episode.frames.shape[1]
        opened = open_world(episode.environment, episode.seed, size)
        expected = [opened.frame] + [opened.step(action).frame for action in (LEFT, LEFT, FORWARD)]
        world = await _begin(ground)
        await _act(world, LEFT, FORWARD, FORWARD)
        world.history.rewind(1)
        world.arrive()
        await _act(world, LEFT, FORWARD)
        shown = [decode_png(moment.pictures[1]) for moment in world.history.path()]
        assert all(np.array_equal(a, b) for a, b in zip(shown, expected, strict=True))
        assert world.history.differs_at() == 0 and all(m.psnr is not None for m in world.history.path())

    played(wild, story)


class _NoEvents:
    simulator = SimpleNamespace(possible_events=list)

    def close(self) -> None: ...


def test_an_episode_that_is_over_in_reality_goes_on_in_the_dream(wild: LoadedRun, monkeypatch: Any) -> None:
    class Short(_NoEvents):
        steps = 0

        @property
        def frame(self) -> np.ndarray:
            return np.full((32, 32, 3), self.steps, dtype=np.uint8)

        def step(self, _: int) -> Step:
            assert self.steps < 2, "stepped after its end"
            self.steps += 1
            return Step(self.frame, 0.5, self.steps == 2, False)

    monkeypatch.setattr(twin_module, "open_world", lambda *_: Short())

    async def story(ground: Playground) -> None:
        world = await _begin(ground)
        await _act(world, LEFT, LEFT, LEFT)
        assert world.history.here().real_note == "The real episode was over after 2 steps, with a reward of 1."
        assert decode_png(world.history.here().pictures[1]).max() == 2
        world.history.rewind(1)
        world.arrive()
        assert world.history.here().real_note is None

    played(wild, story)


def test_an_environment_that_cannot_be_played_back_is_left_out_with_its_reason(
    wild: LoadedRun, monkeypatch: Any
) -> None:
    rng = np.random.default_rng(0)

    class Fickle(_NoEvents):
        @property
        def frame(self) -> np.ndarray:
            return rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)

        def step(self, _: int) -> Step:
            return Step(self.frame, 0.0, False, False)

    monkeypatch.setattr(twin_module, "open_world", lambda *_: Fickle())

    async def story(ground: Playground) -> None:
        world = await _begin(ground)
        await _act(world, LEFT, FORWARD)
        assert world.history.here().pictures[1]
        world.history.rewind(1)
        world.arrive()
        await _act(world, RIGHT, RIGHT)
        here = world.history.here()
        assert here.pictures[1] == b"" and here.psnr is None
        assert here.real_note is not None and "cannot be played back" in here.real_note

    played(wild, story)


def test_a_twin_replays_only_what_it_must() -> None:
    twin = Twin("BabyAI-GoToLocalS8N3-v0", 5, 32)
    straight = [twin.at([LEFT] * n).picture for n in range(4)]
    assert np.array_equal(twin.at([LEFT]).picture, straight[1])
    assert np.array_equal(twin.at([LEFT, LEFT]).picture, straight[2])
    twin.close()
    assert np.array_equal(twin.at([]).picture, straight[0])


def test_episodes_from_elsewhere_have_no_twin_and_say_so(wild: LoadedRun, monkeypatch: Any) -> None:
    async def story(ground: Playground) -> None:
        read = ground.starts.read
        monkeypatch.setattr(ground.starts, "read", lambda number: replace(read(number), environment=""))
        world = await _begin(ground)
        await _act(world, LEFT)
        assert world.history.here().real_note == NO_ENVIRONMENT and world.history.here().pictures[1] == b""

    played(wild, story)


# --- the session ----------------------------------------------------------------------------------------------------


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
