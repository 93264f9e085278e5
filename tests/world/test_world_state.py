"""The past of a world: states share what they have in common, and none of them ever changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_sequences import BUILDER, PAD_ID, tiny_backbone, toy_episode

from unimodel.world.state import WorldState
from unimodel.world.window import lay_window
from unimodel.world.worlds import Worlds

MISSION = np.arange(3, 6)


def begun(dtype: type[np.generic] = np.int64) -> WorldState:
    return WorldState(MISSION, np.zeros((1, 2, 2), dtype=dtype), np.zeros(0, dtype=np.int64))


def frame(code: int) -> np.ndarray:
    return np.full((2, 2), code)


@given(st.lists(st.tuples(st.sampled_from(["step", "rewind", "since", "event", "frames"]), st.integers(0, 99))))
@settings(max_examples=200, deadline=None)
def test_states_are_what_plain_lists_would_be(deeds: list[tuple[str, int]]) -> None:
    """Any state goes on, again and again, and all that were there before stay as they were."""
    states: list[tuple[WorldState, list[int], list[int], list[tuple[int, int]]]] = [(begun(), [0], [], [])]
    for number, (deed, choice) in enumerate(deeds):
        state, frames, actions, events = states[choice % len(states)]
        if deed == "step":
            state = state.stepped(number % 5, frame(number))
            frames, actions = [*frames, number], [*actions, number % 5]
        elif deed == "rewind":
            kept = 1 + choice % len(frames)
            state, frames, actions = state.rewound(kept), frames[:kept], actions[: kept - 1]
            events = [event for event in events if event[0] < kept - 1]
        elif deed == "since":
            first = choice % len(frames)
            state, frames, actions = state.since(first), frames[first:], actions[first:]
            events = [(step - first, what) for step, what in events if step >= first]
        elif deed == "event":
            state, events = state.with_event(np.array([number])), [*events, (len(actions), number)]
        else:  # somebody puts other frames in their place
            state, frames = replace(state, frames=state.frames + 1), [code + 1 for code in frames]
        states.append((state, frames, actions, events))
    for state, frames, actions, events in states:
        assert state.frames[:, 0, 0].tolist() == frames and state.actions.tolist() == actions
        assert [(step, int(ids[0])) for step, ids in state.events] == events


def test_the_newest_state_of_a_world_copies_its_past_a_few_times_in_ten_thousand_steps() -> None:
    state, owners = begun(), set[int]()
    for number in range(10_000):
        state = state.stepped(number % 5, frame(number))
        assert state.frames.base is not None
        owners.add(state.frames.base.nbytes)
    assert len(owners) == 14, "twice the room each time"
    assert np.array_equal(state.frames[1:, 0, 0], np.arange(10_000))
    branch = state.rewound(9_000).stepped(1, frame(7))
    assert not np.shares_memory(branch.frames, state.frames) and state.frames[9_000, 0, 0] == 8_999


@pytest.mark.parametrize("has_sink", [False, True])
def test_a_live_world_steps_within_the_room_of_its_past(has_sink: bool) -> None:
    """What the next window is laid out from does not take the place of the frame that is to come."""
    worlds = Worlds(tiny_backbone(), BUILDER, PAD_ID, 4, has_sink=has_sink)
    slot, owners = worlds.open(begun()), list[np.ndarray]()
    for number in range(40):
        worlds.step([slot], [number % 5])
        worlds.outcomes([slot])
        base = worlds.state(slot).frames.base
        assert base is not None
        if not owners or base is not owners[-1]:
            owners.append(base)
    assert [len(owner) for owner in owners] == [2, 4, 8, 16, 32, 64]


def test_frames_of_a_narrow_type_are_kept_in_one_that_holds_the_next() -> None:
    state = begun(np.uint8).stepped(1, frame(3).astype(np.uint8)).stepped(1, frame(70_000))
    assert state.frames.tolist() == [frame(0).tolist(), frame(3).tolist(), frame(70_000).tolist()]


def test_an_event_stands_before_those_of_steps_to_come() -> None:
    state = replace(begun(), events=((0, np.array([1])), (4, np.array([2]))))
    told = state.with_event(np.array([3])).stepped(1, frame(1)).with_event(np.array([4]))
    assert [(step, int(ids[0])) for step, ids in told.events] == [(0, 1), (0, 3), (1, 4), (4, 2)]
    assert [(step, int(ids[0])) for step, ids in told.since(1).events] == [(0, 4), (3, 2)]


@pytest.mark.parametrize("has_sink", [False, True])
@pytest.mark.parametrize("first", [0, 1, 2, 5])
def test_a_window_is_laid_as_if_its_episode_lay_there_whole(first: int, has_sink: bool) -> None:
    episode = toy_episode(1, 8)
    events = ((0, np.array([7])), (1, np.array([8])), (5, np.array([9])))
    state = WorldState(episode.mission, episode.frames, episode.actions, events)
    unrewarded = replace(episode, rewards=np.zeros(8), done=np.zeros(8, dtype=bool), events=events)
    whole = BUILDER.interaction(unrewarded, first, 9 - first, has_sink=has_sink)
    window = lay_window(BUILDER, state, first, has_sink=has_sink, has_outcomes=True)
    assert window.sequence.spans == whole.spans
    np.testing.assert_array_equal(window.sequence.ids, whole.ids)
