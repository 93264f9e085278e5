"""Sequences from episodes: spans cover every token, and actions, frames and outcomes stand where their time says.

Run: pytest tests/tokenizers/test_sequences.py
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_sequences import BOS_ID, BUILDER, EOS_ID, VOCABULARY, toy_episode, toy_eventful, toy_film, toy_talkie

from data_pipelines.shards.table import SampleEntry
from unimodel.batch import TokenSequence
from unimodel.config import SequenceKind
from unimodel.layout import CAUSAL, GRID_SPACING, STEP_MODALITIES, Layout, Role, Span
from unimodel.tokenizers.action import reward_codes
from unimodel.tokenizers.tokenised_shards import decode_tokenised, encode_tokenised, tokenised_lengths
from unimodel.tokenizers.unified import EpisodeShape, TokenisedEpisode, first_place, sequence_length
from unimodel.vocabulary import Modality

EPISODE = toy_episode(2, steps=6)
EVENTFUL = toy_eventful(2, steps=6)
ALL = [
    *[BUILDER.interaction(EVENTFUL, start, frames) for start, frames in [(0, 7), (1, 2), (2, 3), (4, 3)]],
    BUILDER.clip(toy_talkie(3), 1, 3),
    BUILDER.interaction(toy_talkie(3), 0, 4),
    BUILDER.interaction(toy_film(3), 1, 3),
    BUILDER.text_to_audio(EPISODE.captions[3], toy_talkie(3).audio[1], "e"),
    BUILDER.audio_to_text(toy_talkie(3).audio[1], EPISODE.captions[3], "e"),
    BUILDER.text(EPISODE.captions[3], 1, 3, "e"),
    *[BUILDER.clip(EPISODE, frame) for frame in range(7)],
    BUILDER.text_to_image(EPISODE.captions[3], EPISODE.frames[3], "e"),
    BUILDER.image_to_text(EPISODE.frames[3], EPISODE.captions[3], "e"),
    *[BUILDER.interaction(EPISODE, start, frames) for start, frames in [(0, 7), (2, 3), (5, 4), (6, 3)]],
]
ALL_WITHOUT_EVENTS = ALL[4:]


def codes(sequence: TokenSequence, span: Span) -> np.ndarray:
    return VOCABULARY.codes(span.modality, sequence.ids[span.start : span.stop])


def of(sequence: TokenSequence, modality: Modality) -> list[Span]:
    return [span for span in sequence.spans if span.modality is modality]


@pytest.mark.parametrize("sequence", ALL, ids=lambda s: s.key)
def test_spans_cover_every_token_once_with_ids_of_their_modality(sequence: TokenSequence) -> None:
    covered = np.concatenate([np.arange(span.start, span.stop) for span in sequence.spans])
    assert (covered == np.arange(len(sequence))).all()
    for span in sequence.spans:
        ids = VOCABULARY.range_of(span.modality)
        assert all(int(i) in ids for i in sequence.ids[span.start : span.stop]), span


def test_spans_that_do_not_cover_are_refused() -> None:
    ids = np.arange(4)
    for spans in [((0, 2),), ((0, 2), (3, 4)), ((0, 3), (2, 4)), ((0, 4), (4, 5))]:
        with pytest.raises(AssertionError):
            TokenSequence("k", ids, Layout([Span(a, b, Modality.TEXT, Role.TARGET) for a, b in spans]))


@pytest.mark.parametrize(("start", "frames"), [(0, 7), (2, 3), (5, 4)])
def test_interaction_is_aligned(start: int, frames: int) -> None:
    """Action t stands before frame t + 1; reward t and done t follow it."""
    sequence = BUILDER.interaction(EPISODE, start, frames)
    images = of(sequence, Modality.IMAGE)
    assert len(images) == min(frames, 7 - start)
    for number, span in enumerate(images):
        assert (codes(sequence, span) == EPISODE.frames[start + number].ravel()).all()
        assert span.time == number and span.role is (Role.TARGET if number else Role.CONDITION)
    for number, (action, before, frame, reward, done) in enumerate(
        zip(
            of(sequence, Modality.ACTION),
            images[:-1],
            images[1:],
            of(sequence, Modality.REWARD),
            of(sequence, Modality.DONE),
            strict=True,
        )
    ):
        step = start + number
        assert before.stop <= action.start < frame.start, "between the two frames that it joins"
        assert action.stop + 1 == frame.start, "right before the frame it led to, but for <|image|>"
        assert frame.stop == reward.start and reward.stop == done.start
        assert codes(sequence, action).tolist() == [EPISODE.actions[step]]
        assert codes(sequence, reward).tolist() == [int(reward_codes(EPISODE.rewards[step]))]
        assert codes(sequence, done).tolist() == [int(EPISODE.done[step])]
        assert action.role is reward.role is done.role is Role.TARGET
        assert action.time == frame.time == reward.time == done.time == number + 1


def test_interaction_asks_nothing_about_the_mission() -> None:
    sequence = BUILDER.interaction(EPISODE, 0, 3)
    text = (sequence.modality() == Modality.TEXT) & (sequence.role() == Role.CONDITION)
    assert sequence.ids[text].tolist() == [*EPISODE.mission.tolist(), EOS_ID]
    assert VOCABULARY.no_action in sequence.ids.tolist()


@pytest.mark.parametrize(("start", "frames", "told"), [(0, 7, [0, 1, 2, 3]), (1, 2, [0]), (2, 4, [1, 2]), (4, 2, [])])
def test_events_stand_in_front_of_the_action_of_their_step(start: int, frames: int, told: list[int]) -> None:
    sequence, without = (BUILDER.interaction(episode, start, frames) for episode in (EVENTFUL, EPISODE))
    mission, *texts = [span for span in of(sequence, Modality.TEXT) if span.role is Role.CONDITION]
    assert mission.time == 0 and len(texts) == len(told)
    event_tokens = np.zeros(len(sequence), dtype=bool)
    following = {span.start: span for span in sequence.spans}
    for span, number in zip(texts, told, strict=True):
        step, ids = EVENTFUL.events[number]
        assert codes(sequence, span).tolist() == [*ids.tolist(), EOS_ID]
        assert sequence.ids[span.start - 1] == BOS_ID and span.time == step - start + 1
        event_tokens[span.start - 1 : span.stop] = True
        after = following[span.stop]
        while after.modality is Modality.TEXT:  # another event of the same step
            after = following[after.stop]
        assert after.modality is Modality.ACTION and after.time == span.time
    assert (sequence.layout.blocks[event_tokens] == CAUSAL).all()
    assert sequence.ids[~event_tokens].tolist() == without.ids.tolist(), "nothing else changes"
    assert len(BUILDER.clip(EVENTFUL, start, frames)) == len(BUILDER.clip(EPISODE, start, frames))


def test_sequences_without_events_are_what_they_were_before_there_were_events() -> None:
    """Ids, positions and blocks of every kind, by their digest."""
    digest = hashlib.sha256()
    for sequence in ALL_WITHOUT_EVENTS:
        for array in (sequence.ids, sequence.position_ids(), sequence.layout.blocks):
            digest.update(array.astype("<i8").tobytes())
    assert digest.hexdigest() == "11d721e847063fa24e27d0612511c16b3ccbb48ed2bfa25935022b34c1af95ae"


def test_clip_holds_caption_frame_action_and_next_frame() -> None:
    sequence = BUILDER.clip(EPISODE, 2)
    first, second = of(sequence, Modality.IMAGE)
    (action,) = of(sequence, Modality.ACTION)
    assert (codes(sequence, first) == EPISODE.frames[2].ravel()).all()
    assert (codes(sequence, second) == EPISODE.frames[3].ravel()).all()
    assert codes(sequence, action).tolist() == [EPISODE.actions[2]] and first.stop <= action.start < second.start
    caption = sequence.ids[sequence.modality() == Modality.TEXT]
    assert caption.tolist() == [BOS_ID, *EPISODE.captions[2].tolist(), EOS_ID]
    assert not of(BUILDER.clip(EPISODE, 6), Modality.ACTION), "the last frame has no successor"


def test_prompts_are_conditions_and_answers_targets() -> None:
    to_image = BUILDER.text_to_image(EPISODE.captions[1], EPISODE.frames[1], "e")
    to_text = BUILDER.image_to_text(EPISODE.frames[1], EPISODE.captions[1], "e")
    for sequence, asked in ((to_image, Modality.IMAGE), (to_text, Modality.TEXT)):
        assert set(sequence.modality()[sequence.role() == Role.TARGET].tolist()) == {asked}


@pytest.mark.parametrize("sequence", ALL, ids=lambda s: s.key)
def test_positions_number_rows_and_columns_and_never_go_back_in_time(sequence: TokenSequence) -> None:
    positions = sequence.position_ids()
    assert (np.diff(positions[0]) >= 0).all()
    for span in sequence.spans:
        here = positions[:, span.start : span.stop]
        if span.grid is not None:
            rows, columns = np.divmod(np.arange(len(span)), span.grid[1])
            assert (here[1] == rows * GRID_SPACING).all() and (here[2] == columns * GRID_SPACING).all()
            assert (here[0] == span.start).all()
        elif span.modality in STEP_MODALITIES or span.missing:
            assert (here[0] == np.arange(span.start, span.stop)).all() and (here[1:] == 0).all()
        elif not span.ruler:
            assert (here == np.arange(span.start, span.stop)).all(), "text is numbered as plain generation would"


def test_tokenised_episode_survives_its_shard() -> None:
    fields_of_shard = encode_tokenised(EPISODE)
    back = decode_tokenised(EPISODE.key, fields_of_shard)
    for field in fields(TokenisedEpisode):
        one, other = getattr(EPISODE, field.name), getattr(back, field.name)
        if field.name == "events":
            assert one == other == ()
        elif field.name == "captions":
            assert [c.tolist() for c in one] == [c.tolist() for c in other]
        else:
            assert np.array_equal(one, other), field.name
    with pytest.raises(ValueError, match=r"episode: field tokens\.npy is missing or damaged"):
        decode_tokenised(EPISODE.key, {})


def test_events_survive_their_shard_and_damaged_ones_are_told() -> None:
    back = decode_tokenised(EVENTFUL.key, encode_tokenised(EVENTFUL))
    assert [(step, ids.tolist()) for step, ids in back.events] == [(s, ids.tolist()) for s, ids in EVENTFUL.events]
    plain = np.load(io.BytesIO(encode_tokenised(EPISODE)["tokens.npy"]))
    whole = np.load(io.BytesIO(encode_tokenised(EVENTFUL)["tokens.npy"]))
    assert (whole[: len(plain)] == plain).all(), "they stand behind what was there before there were events"
    later = len(plain) + 1  # the step of the first
    too_late = np.concatenate([whole[:later], [99], whole[later + 1 :]])
    for damaged in (whole[:-1], np.append(whole, 0), whole[:later], too_late):
        buffer = io.BytesIO()
        np.save(buffer, damaged.astype(whole.dtype))
        with pytest.raises(ValueError, match=r"episode: field tokens\.npy is missing or damaged \(its events"):
            decode_tokenised("episode", {"tokens.npy": buffer.getvalue()})


TALKIE, FILM = toy_talkie(4), toy_film(5)
SOUND = replace(TALKIE, frames=np.zeros((5, 0, 0), dtype=np.int64))
TEXT = replace(toy_film(5, steps=0), frames=np.zeros((1, 0, 0), dtype=np.int64), audio=np.zeros((1, 0), dtype=np.int64))
KINDS: tuple[SequenceKind, ...] = get_args(SequenceKind)


def shape_of(episode: TokenisedEpisode) -> EpisodeShape:
    """What the index says."""
    entry = SampleEntry(
        "k", {}, {n: [v] if isinstance(v, int) else list(v) for n, v in tokenised_lengths(episode).items()}
    )
    names = ("frames", "grid", "audio", "outcome", "mission", "captions")
    (frames,), (rows, columns), (audio,), (outcome,), (mission,), captions = (entry.lengths[name] for name in names)
    event_steps, events = (entry.lengths.get(name, []) for name in ("event_steps", "events"))
    return EpisodeShape(frames, rows, columns, audio, outcome, mission, captions, event_steps, events)


@settings(max_examples=200)
@given(
    st.integers(1, 9),
    st.integers(0, 1 << 30),
    st.sampled_from(KINDS),
    st.sampled_from([EPISODE, EVENTFUL, TALKIE, FILM, SOUND, TEXT]),
    st.booleans(),
    st.booleans(),
)
def test_the_length_of_a_sequence_is_known_before_it_is_made(
    most: int, choice: int, kind: SequenceKind, episode: TokenisedEpisode, has_sink: bool, asks_agent: bool
) -> None:
    shape = shape_of(episode)
    start = first_place(kind, shape.num_frames, shape.caption_tokens[0], most, choice)
    try:
        length = sequence_length(kind, shape, start, most, has_sink=has_sink, asks_agent=asks_agent)
    except ValueError as error:
        missing = {"image": episode.frames.size, "audio": episode.audio.size}
        assert "needs" in str(error) and not all(missing.values())
        return
    discount = 0.9 if asks_agent else None
    assert len(BUILDER.build(kind, episode, start, most, has_sink=has_sink, discount=discount)) == length


def test_sound_follows_its_frame_in_the_same_block() -> None:
    sequence = BUILDER.interaction(TALKIE, 1, 4)
    images, sounds = of(sequence, Modality.IMAGE), of(sequence, Modality.AUDIO)
    block = sequence.layout.blocks
    for number, (image, sound) in enumerate(zip(images, sounds, strict=True)):
        assert codes(sequence, sound).tolist() == TALKIE.audio[1 + number].tolist()
        assert sound.start == image.stop + 1 and sound.time == image.time == number and sound.role is image.role
        assert len(set(block[image.start : sound.stop])) == 1, "picture, delimiter and sound see each other"
    assert len({int(block[span.start]) for span in images}) == len(images)


def test_sound_alone_is_a_block_as_well() -> None:
    for sequence in (BUILDER.build("clip", SOUND, 0, 3), BUILDER.build("text_to_audio", SOUND, 2, 1)):
        block = sequence.layout.blocks
        sounds = of(sequence, Modality.AUDIO)
        assert sounds and not of(sequence, Modality.IMAGE)
        assert all(set(block[s.start : s.stop]) == {number} for number, s in enumerate(sounds))


def test_a_film_has_no_actions_and_no_outcomes() -> None:
    sequence = BUILDER.interaction(FILM, 0, 5)
    assert not of(sequence, Modality.ACTION) and not of(sequence, Modality.REWARD) and not of(sequence, Modality.DONE)
    assert (sequence.ids == VOCABULARY.no_action).sum() == len(of(sequence, Modality.IMAGE)) == 5


@pytest.mark.parametrize("episode", [EPISODE, TALKIE, FILM, SOUND])
def test_a_late_window_has_the_first_frame_as_its_sink(episode: TokenisedEpisode) -> None:
    plain, sunk = (BUILDER.interaction(episode, 2, 3, has_sink=has_sink) for has_sink in (False, True))
    first = BUILDER.interaction(episode, 0, 1)
    step = len(sunk) - len(plain)
    assert step == len(first) - next(s.start for s in first.spans if s.is_observed) + 2, "an action and a frame"
    assert (sunk.ids[: len(first)] == first.ids).all(), "it begins as the episode does"
    assert (sunk.ids[len(first) + 1 :] == plain.ids[len(first) - step + 1 :]).all()
    assert sunk.ids[len(first)] == VOCABULARY.no_action, "nobody says what led to the frame after it"
    assert (sunk.role()[: len(first) + step] != Role.TARGET).all(), "sink and first frame are given"
    block = sunk.layout.blocks
    assert block.max() == plain.layout.blocks.max() + 1 and block[len(first)] == 1, "each is a block of its own"
    assert (BUILDER.interaction(episode, 0, 3, has_sink=True).ids == BUILDER.interaction(episode, 0, 3).ids).all()


def test_a_missing_action_stands_as_a_known_one_does() -> None:
    """Alike in block and positions, so that what is learnt of one serves the other."""
    known, missing = (BUILDER.interaction(e, 0, 5).layout for e in (replace(FILM, actions=TALKIE.actions), FILM))
    assert (known.blocks == missing.blocks).all() and (known.position_ids == missing.position_ids).all()


@pytest.mark.parametrize("episode", [EPISODE, EVENTFUL], ids=["plain", "eventful"])
@pytest.mark.parametrize("large", [0, 1 << 17], ids=["uint16", "uint32"])
def test_poses_survive_their_shard_and_damaged_ones_are_told(episode: TokenisedEpisode, large: int) -> None:
    poses = np.random.default_rng(0).normal(size=(episode.num_frames, 3)).astype(np.float32)
    posed = replace(episode, poses=poses, frames=episode.frames + large)
    fields_of_shard = encode_tokenised(posed)
    back = decode_tokenised(posed.key, fields_of_shard)
    assert back.poses.dtype == np.float32 and np.array_equal(back.poses, poses)
    assert [(step, ids.tolist()) for step, ids in back.events] == [(s, ids.tolist()) for s, ids in episode.events]
    assert np.array_equal(back.frames, posed.frames)
    whole = np.load(io.BytesIO(fields_of_shard["tokens.npy"]))
    for damaged in (whole[:-1], np.append(whole, 0).astype(whole.dtype)):
        buffer = io.BytesIO()
        np.save(buffer, damaged)
        with pytest.raises(ValueError, match="damaged"):
            decode_tokenised(posed.key, {"tokens.npy": buffer.getvalue()})


def test_a_long_text_is_read_in_parts_and_ends_once() -> None:
    (caption,) = TEXT.captions
    whole = [*caption.tolist(), EOS_ID]
    for start in range(len(whole) - 1):
        sequence = BUILDER.text(caption, start, 2, "t")
        assert sequence.ids.tolist() == [BOS_ID, *whole[start : start + 2]]
        assert (sequence.role()[1:] == Role.TARGET).all()


@pytest.mark.parametrize("episode", [TALKIE, FILM, SOUND, TEXT])
def test_any_tokenised_sample_survives_its_shard(episode: TokenisedEpisode) -> None:
    back = decode_tokenised(episode.key, encode_tokenised(episode))
    for name in ("frames", "audio", "actions", "rewards", "done", "mission"):
        assert np.array_equal(getattr(episode, name), getattr(back, name), equal_nan=name == "rewards"), name
    assert [c.tolist() for c in back.captions] == [c.tolist() for c in episode.captions]
