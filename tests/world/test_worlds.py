"""The cached frame step is the whole window read again, whatever was stepped, rolled over or opened beside it.

Run: pytest tests/world/test_worlds.py
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peers.recomputed_world import recompute_step
from torch import Tensor
from toy_sequences import BUILDER, PAD_ID, TINY_BACKBONE, VOCABULARY, all_logits, toy_episode, toy_eventful

from unimodel.backbone.model import Backbone, build_decoder
from unimodel.batch import PackedBatch, pack
from unimodel.layout import NO_TARGET
from unimodel.sampling.fill import FillSettings, fill_span, hide, read_only
from unimodel.tokenizers.action import REWARD_BINS, reward_values
from unimodel.vocabulary import Modality
from unimodel.world.state import WorldState
from unimodel.world.worlds import Outcome, Worlds

WINDOW_FRAMES = 6
IMAGES = VOCABULARY.range_of(Modality.IMAGE)


class Listening(Backbone):
    """A backbone that keeps the logits of picture codes that it gave, however it was asked.

    Each is (logits [answers, codes], row of each answer, column of each answer): of the batch where a plain forward was
    asked, of the frame where the cached step was.
    """

    def __init__(self, family: str = "qwen3_5_text") -> None:
        decoder = build_decoder(TINY_BACKBONE.model_copy(update={"family": family}), VOCABULARY, seed=1)
        with torch.no_grad():
            for parameter in decoder.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(5.0)
        decoder.set_attn_implementation("sdpa")
        super().__init__(decoder)
        self.eval()
        self.heard: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, batch: PackedBatch) -> Tensor:
        logits = super().forward(batch)
        rows, columns = (batch.target != NO_TARGET).nonzero(as_tuple=True)
        self.heard.append((logits[:, IMAGES.start : IMAGES.stop], rows, columns))
        return logits

    def logits(self, hidden: Tensor, ids: range) -> Tensor:
        logits = super().logits(hidden, ids)
        if ids == IMAGES:
            rows, columns = torch.ones(logits.shape[:2]).nonzero(as_tuple=True)
            self.heard.append((logits.flatten(0, 1), rows, columns))
        return logits

    def take(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        heard, self.heard = self.heard, []
        return heard


def assert_same_answers(cached: list[Any], recomputed: list[Any], codes: int) -> int:
    """Every answer of the plain forwards is the cached step's of that pass and place. How many there were."""
    assert len(cached) == len(recomputed)
    _, rows, columns = recomputed[0]
    first = torch.stack([columns[rows == row].min() for row in rows.unique()])
    for (ours, _, _), (theirs, rows, columns) in zip(cached, recomputed, strict=True):
        places = rows * codes + columns - first[rows]
        torch.testing.assert_close(ours[places], theirs[: len(places)], rtol=0, atol=1e-4)
    return sum(len(rows) for _, rows, _ in recomputed)


def world(seed: int, frames: int, mission: int = 5) -> WorldState:
    episode = toy_episode(seed, steps=frames)
    return WorldState(episode.mission[:mission], episode.frames[:frames], episode.actions[: frames - 1])


def recent(state: WorldState, frames: int) -> WorldState:
    return state.since(len(state.frames) - frames)


@pytest.mark.parametrize("family", ["qwen3_5_text", "qwen3", "llama"])
@pytest.mark.parametrize("passes", [1, 2, 4, 9])
def test_a_cached_step_is_the_whole_window_read_again(family: str, passes: int) -> None:
    """Past four turns of the window, with worlds of other lengths and missions beside it."""
    backbone = Listening(family)
    fill = FillSettings(steps=passes)
    worlds = Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES, fill)
    slots = [worlds.open(world(0, 1)), worlds.open(world(1, 4, mission=2)), worlds.open(world(2, 9, mission=1))]
    rng = np.random.default_rng(0)
    lengths = set()
    for _ in range(2 * WINDOW_FRAMES):
        windows = [recent(worlds.state(slot), worlds.window_frames(slot)) for slot in slots]
        lengths |= {len(window.frames) for window in windows}
        actions = rng.integers(VOCABULARY.action_size, size=3).tolist()
        backbone.take()
        frames = worlds.step(slots, actions)
        cached = backbone.take()
        expected = recompute_step(backbone, BUILDER, PAD_ID, windows, actions, fill)
        recomputed = backbone.take()
        assert len(cached) == passes
        assert assert_same_answers(cached, recomputed, frames[0].size) >= frames.size
        np.testing.assert_array_equal(frames, expected)
    assert lengths == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("passes", [1, 3])
def test_a_cached_step_after_events_is_the_whole_window_read_again(passes: int) -> None:
    """Events of the past, told just now, two at once, and of steps to come; beside a world without any."""
    backbone, fill = Listening(), FillSettings(steps=passes)
    worlds = Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES, fill)
    rng = np.random.default_rng(0)
    eventful = toy_eventful(0, steps=6)
    past = replace(world(0, 4), events=eventful.events)
    slots = [worlds.open(past), worlds.open(world(1, 2)), worlds.open(world(2, 1))]
    for number in range(2 * WINDOW_FRAMES):
        for _ in range(number % 3):
            worlds.make_happen(slots[2], rng.integers(3, VOCABULARY.text_size, size=1 + number))
        windows = [recent(worlds.state(slot), worlds.window_frames(slot)) for slot in slots]
        actions = rng.integers(VOCABULARY.action_size, size=3).tolist()
        backbone.take()
        frames = worlds.step(slots, actions)
        cached = backbone.take()
        expected = recompute_step(backbone, BUILDER, PAD_ID, windows, actions, fill)
        assert_same_answers(cached, backbone.take(), frames[0].size)
        np.testing.assert_array_equal(frames, expected)
        if number % 4 == 3:
            worlds.outcomes(slots)
    assert [len(worlds.state(slot).events) for slot in slots] == [4, 0, 12]


def test_an_event_changes_the_frame_that_follows_and_is_forgotten_by_going_back() -> None:
    backbone = Listening()
    worlds = Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES)
    told, untold = worlds.open(world(3, 3)), worlds.open(world(3, 3))
    worlds.make_happen(told, np.arange(4, 9))
    backbone.take()
    worlds.step([told, untold], [1, 1])
    ours, theirs = backbone.take()[0][0].chunk(2)
    assert (ours - theirs).abs().max() > 1e-3
    state = worlds.state(told)
    assert len(state.events) == 1 and state.rewound(3).events == ()
    assert [step for step, _ in state.since(1).events] == [1]


def test_a_step_reads_two_frames_and_never_the_window() -> None:
    """Many public world models run the whole window through the decoder for every pass."""
    backbone, window_frames, passes = Listening(), 40, 3
    tokens: list[int] = []
    backbone.decoder.get_input_embeddings().register_forward_hook(lambda _, ids, __: tokens.append(ids[0].numel()))
    worlds = Worlds(backbone, BUILDER, PAD_ID, window_frames, FillSettings(steps=passes))
    slot = worlds.open(world(0, 20))
    worlds.step([slot], [0])
    frame = 1 + 1 + 9  # action, delimiter, codes
    for _ in range(window_frames - 22):
        tokens.clear()
        worlds.step([slot], [1])
        assert tokens == [2 * frame + 2, frame, frame]  # the last frame with its reward and done flag, and the new one
    assert worlds.window_frames(slot) == window_frames - 1


@pytest.mark.parametrize("passes", [1, 3])
def test_a_window_that_has_moved_on_keeps_its_sink(passes: int) -> None:
    """As in training: the first frame, and what the window begins with."""
    backbone, fill = Listening(), FillSettings(steps=passes)
    worlds = Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES, fill, has_sink=True)
    slot = worlds.open(world(2, 4))
    firsts = set()
    for action in (0, 1, 2, 3, 4, 0, 1, 2, 3):
        state, first = worlds.state(slot), len(worlds.state(slot).frames) - worlds.window_frames(slot)
        firsts.add(first)
        backbone.take()
        frame = worlds.step([slot], [action])[0]
        cached = backbone.take()
        unknown = state.stepped(action, state.frames[-1])
        steps = len(unknown.actions)
        episode = replace(toy_episode(), frames=unknown.frames, actions=unknown.actions, mission=state.mission)
        episode = replace(episode, rewards=np.zeros(steps), done=np.zeros(steps, dtype=bool))
        sequence = BUILDER.interaction(episode, first, WINDOW_FRAMES, has_sink=True)
        outcomes = np.isin(sequence.modality(), (Modality.REWARD, Modality.DONE))
        span, rng = sequence.layout.pictures[-1], np.random.default_rng(0)
        (codes,) = fill_span(backbone, [sequence], [span], VOCABULARY, PAD_ID, fill, rng, [outcomes])
        np.testing.assert_array_equal(frame.ravel(), codes)
        assert_same_answers(cached, backbone.take(), frame.size)
    assert len(firsts) > 2 and 0 in firsts


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["step", "close", "outcomes"])), max_size=12))
@settings(max_examples=15, deadline=None)
def test_worlds_opened_and_closed_beside_each_other_are_as_if_alone(events: list[tuple[int, str]]) -> None:
    """Mixed resets: a slot that is closed and used again carries nothing over to the next world in it."""
    backbone = Listening()
    together = Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES)
    alone: dict[int, Worlds] = {}
    for number, (slot, event) in enumerate([*events, *((slot, "step") for slot in range(4))]):
        if slot not in alone:
            state = world(number, 1 + number % 3)
            opened = together.open(state)
            alone[opened] = Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES)
            alone[opened].open(state)
        elif event == "close":
            together.close(slot)
            del alone[slot]
            continue
        if event == "outcomes" and all(len(together.state(s).actions) for s in alone):
            ours = together.outcomes(sorted(alone))
            theirs = [alone[s].outcomes([0]) for s in sorted(alone)]
            np.testing.assert_allclose(ours.over, np.concatenate([t.over for t in theirs]), atol=1e-5)
        slots = sorted(alone)
        actions = [(slot + number) % VOCABULARY.action_size for slot in slots]
        frames = together.step(slots, actions)
        for s, action, frame in zip(slots, actions, frames, strict=True):
            np.testing.assert_array_equal(alone[s].step([0], [action])[0], frame)


@pytest.mark.parametrize(
    ("window_frames", "steps", "read"), [(6, 2, 5), (6, 3, 6), (6, 4, 4), (3, 1, 2), (3, 2, 3), (2, 1, 2)]
)
def test_outcomes_are_what_a_plain_forward_says(window_frames: int, steps: int, read: int) -> None:
    """`read` frames: a window that the last step has filled has not moved on yet, and one of two frames never could."""
    backbone = Listening()
    worlds = Worlds(backbone, BUILDER, PAD_ID, window_frames)
    slot = worlds.open(world(4, 3))
    for action in range(steps):
        worlds.step([slot], [action])
    outcome = worlds.outcomes([slot])
    state = worlds.state(slot)
    episode = replace(
        toy_episode(),
        frames=state.frames[-read:],
        actions=state.actions[len(state.actions) - read + 1 :],
        rewards=np.zeros(read - 1),
        done=np.zeros(read - 1, dtype=bool),
        mission=state.mission,
    )
    sequence = BUILDER.interaction(episode, 0, read)
    unknown = np.isin(sequence.modality(), (Modality.REWARD, Modality.DONE))
    asked = hide(read_only(sequence), unknown, VOCABULARY)
    logits = all_logits(backbone, pack([[asked]], len(sequence), PAD_ID))[0]
    over = logits[len(sequence) - 1, list(VOCABULARY.range_of(Modality.DONE))].softmax(dim=-1)[1]
    assert outcome.over[0] == pytest.approx(float(over), abs=1e-5)
    reward = logits[len(sequence) - 2, list(VOCABULARY.range_of(Modality.REWARD))].softmax(dim=-1).numpy()
    assert outcome.rewards[0] == pytest.approx(float(reward @ reward_values(np.arange(REWARD_BINS))), abs=1e-4)
    asked_again = worlds.outcomes([slot])
    assert (asked_again.rewards, asked_again.over) == (outcome.rewards, outcome.over), "as often as one asks"
    # They read the last frame into the cache; what follows is the same.
    again = Worlds(backbone, BUILDER, PAD_ID, window_frames)
    window = recent(state, worlds.window_frames(slot))
    np.testing.assert_array_equal(worlds.step([slot], [3]), again.step([again.open(window)], [3]))


def test_noise_follows_from_the_worlds_seed_alone() -> None:
    backbone = Listening()
    drawn = FillSettings(steps=3, temperature=1.0, choice_temperature=4.5)
    first = Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES, drawn)
    second = Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES, drawn)
    start = world(5, 2)
    second.open(start, seed=8)
    pairs = [(first.open(start, seed=7), second.open(start, seed=7)), (first.open(start, seed=9), None)]
    (ours, theirs), (other, _) = pairs
    for action in (0, 1, 2):
        frames = first.step([ours, other], [action, action])
        np.testing.assert_array_equal(frames[0], second.step([theirs], [action])[0])
        assert (frames[0] != frames[1]).any()


def test_a_rewound_world_goes_on_as_it_did() -> None:
    backbone = Listening()
    worlds = Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES, FillSettings(steps=2, temperature=1.0))
    slot = worlds.open(world(6, 2), seed=3)
    for action in (1, 4, 2):
        worlds.step([slot], [action])
    past = worlds.state(slot)
    branch = worlds.open(past.rewound(3), seed=3)
    for action in (4, 2):
        worlds.step([branch], [action])
    np.testing.assert_array_equal(worlds.state(branch).frames, past.frames)
    with pytest.raises(ValueError, match="cannot go back to 9"):
        past.rewound(9)


@pytest.mark.parametrize("frames", range(1, 3 * WINDOW_FRAMES))
def test_a_world_opened_with_a_past_goes_on_as_the_world_that_lived_it(frames: int) -> None:
    """Also where the window has moved on in the meantime."""
    backbone = Listening()
    worlds = Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES, FillSettings(steps=2, temperature=1.0))
    lived = worlds.open(world(6, 1), seed=3)
    for number in range(3 * WINDOW_FRAMES):
        worlds.step([lived], [number % 5])
    opened = worlds.open(worlds.state(lived).rewound(frames), seed=3)
    for number in range(frames - 1, 3 * WINDOW_FRAMES):
        worlds.step([opened], [number % 5])
    np.testing.assert_array_equal(worlds.state(opened).frames, worlds.state(lived).frames)


@pytest.mark.slow
def test_compiled_steps_are_the_same() -> None:
    """With the fixed shapes of a GPU, whichever worlds are stepped; on a CPU torch.compile takes its minute too."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    backbone = Listening()
    plain = Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES)
    compiled = Worlds(backbone, BUILDER, PAD_ID, WINDOW_FRAMES, compiled_for=4)
    slots = [(plain.open(state), compiled.open(state)) for state in (world(1, 3), world(2, 1), world(3, 9))]
    for number, some in enumerate([(0, 1, 2), (2,), (0, 2), (1, 0, 2), (1,), (0,), (2, 1)] * 4):
        ours, theirs = zip(*(slots[index] for index in some), strict=True)
        actions = [number % 3, 1, 2][: len(some)]
        backbone.take()
        frames = plain.step(ours, actions)
        expected = backbone.take()
        np.testing.assert_array_equal(compiled.step(theirs, actions), frames)
        for (ours_pass, *_), (theirs_pass, *_) in zip(expected, backbone.take(), strict=True):
            torch.testing.assert_close(theirs_pass[: len(ours_pass)], ours_pass, rtol=0, atol=1e-4)
        if number % 6 == 5:
            np.testing.assert_allclose(compiled.outcomes(theirs).rewards, plain.outcomes(ours).rewards, atol=1e-5)
    # 1, 2 and 4 worlds, of one frame and of two, and the three tokens of outcomes: nothing compiled over and over.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 12


def test_mistakes_are_told_and_change_nothing() -> None:
    worlds = Worlds(Listening(), BUILDER, PAD_ID, WINDOW_FRAMES)
    slot = worlds.open(world(7, 3))
    with pytest.raises(ValueError, match="action code 99 is outside 0..4"):
        worlds.step([slot], [99])
    with pytest.raises(ValueError, match="name one twice"):
        worlds.step([slot, slot], [0, 0])
    fresh = worlds.open(world(8, 1))
    with pytest.raises(ValueError, match="has taken no action"):
        worlds.outcomes([fresh])
    with pytest.raises(KeyError):
        worlds.step([55], [0])
    assert len(worlds.state(slot).frames) == 3


def test_unlikely_rewards_are_none() -> None:
    outcome = Outcome(np.array([0.3, 0.02]), np.array([0.4, 0.04]), np.zeros(2))
    assert outcome.rewards_above(0.05).tolist() == [0.3, 0.0]
