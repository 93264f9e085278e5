"""One played world, without a network: rewinding, branches, text, the real twin.

Run: pytest tests/world/test_play_world.py
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from played_ground import DONE, FORWARD, LEFT, PASSES, RIGHT, played

from data_pipelines.sources.families import open_world
from data_pipelines.sources.world import Step
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.play import twin as twin_module
from unimodel.world.play.difference import decode_png
from unimodel.world.play.played_world import NO_ENVIRONMENT, PlayedWorld
from unimodel.world.play.playground import Playground
from unimodel.world.play.twin import Twin


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
