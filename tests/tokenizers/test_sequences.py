"""Sequences from episodes: spans cover every token, and actions, frames and outcomes stand where their time says.

Run: pytest tests/tokenizers/test_sequences.py
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_sequences import BOS_ID, BUILDER, EOS_ID, VOCABULARY, toy_episode

from unimodel.batch import GRID_SPACING, STEP_MODALITIES, Layout, Role, Span, TokenSequence
from unimodel.tokenizers.action import reward_codes
from unimodel.tokenizers.tokenised_shards import decode_tokenised, encode_tokenised, tokenised_lengths
from unimodel.tokenizers.unified import EpisodeShape, TokenisedEpisode, sequence_length
from unimodel.vocabulary import Modality

EPISODE = toy_episode(2, steps=6)
ALL = [
    *[BUILDER.clip(EPISODE, frame) for frame in range(7)],
    BUILDER.text_to_image(EPISODE.captions[3], EPISODE.frames[3], "e"),
    BUILDER.image_to_text(EPISODE.frames[3], EPISODE.captions[3], "e"),
    *[BUILDER.interaction(EPISODE, start, frames) for start, frames in [(0, 7), (2, 3), (5, 4), (6, 3)]],
]


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
        elif span.modality in STEP_MODALITIES:
            assert (here[0] == np.arange(span.start, span.stop)).all() and (here[1:] == 0).all()
        elif not span.ruler:
            assert (here == np.arange(span.start, span.stop)).all(), "text is numbered as plain generation would"


def test_tokenised_episode_survives_its_shard() -> None:
    fields_of_shard = encode_tokenised(EPISODE)
    back = decode_tokenised(EPISODE.key, fields_of_shard)
    for field in fields(TokenisedEpisode):
        one, other = getattr(EPISODE, field.name), getattr(back, field.name)
        if field.name == "captions":
            assert [c.tolist() for c in one] == [c.tolist() for c in other]
        else:
            assert np.array_equal(one, other), field.name
    content = fields_of_shard["tokens.npy"]
    for damaged in ({}, {"tokens.npy": content[:-2]}, {"tokens.npy": b"\x80\x04K\x01."}, {"tokens.npy": b""}):
        with pytest.raises(ValueError, match=r"episode: field tokens\.npy is missing or damaged"):
            decode_tokenised(EPISODE.key, damaged)


def test_codes_that_need_more_than_16_bits_survive_their_shard() -> None:
    large = replace(EPISODE, frames=EPISODE.frames + 70_000)
    back = decode_tokenised("k", encode_tokenised(large))
    assert np.array_equal(back.frames, large.frames) and np.array_equal(back.rewards, large.rewards)


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(0, 8), st.sampled_from(["clip", "text_to_image", "image_to_text", "interaction"]))
def test_the_length_of_a_sequence_is_known_before_it_is_made(frames: int, start: int, kind: str) -> None:
    start = min(start, EPISODE.num_frames - 1)
    picture, caption = EPISODE.frames[start], EPISODE.captions[start]
    sequence = {
        "clip": lambda: BUILDER.clip(EPISODE, start, frames),
        "text_to_image": lambda: BUILDER.text_to_image(caption, picture, EPISODE.key),
        "image_to_text": lambda: BUILDER.image_to_text(picture, caption, EPISODE.key),
        "interaction": lambda: BUILDER.interaction(EPISODE, start, frames),
    }[kind]()
    lengths = tokenised_lengths(EPISODE)
    rows, columns = EPISODE.frames.shape[1:]
    captions = np.array(lengths["captions"])
    shape = EpisodeShape(EPISODE.num_frames, rows, columns, len(EPISODE.mission), captions)
    assert len(sequence) == sequence_length(kind, shape, start, frames)
