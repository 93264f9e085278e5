"""Sequences of worlds with several agents: an action token of each in front of the frame they led to.

Run: pytest tests/tokenizers/test_society_sequences.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_sequences import BUILDER, VOCABULARY, toy_episode, toy_eventful, toy_society

from data_pipelines.shards.index import Manifest, write_manifest
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.writer import write_shard
from data_pipelines.sources.sample import UNKNOWN_ACTION
from unimodel.batch import TokenSequence
from unimodel.config import SequenceKind
from unimodel.layout import AGENT_SPACING, Role, Span
from unimodel.tokenizers.tokenised_shards import decode_tokenised, encode_tokenised, read_shape, tokenised_lengths
from unimodel.tokenizers.unified import TokenisedEpisode, sequence_length
from unimodel.vocabulary import Modality

STEPS = 6
EPISODE = toy_society(3, STEPS, agents=3)
EVENTFUL = replace(EPISODE, events=toy_eventful(3, STEPS).events)


def acts(sequence: TokenSequence, time: int) -> list[Span]:
    return [span for span in sequence.spans if span.is_action and span.time == time]


@pytest.mark.parametrize(("start", "frames"), [(0, 7), (2, 3), (4, 9)])
def test_every_agent_has_an_action_in_the_block_of_the_frame(start: int, frames: int) -> None:
    sequence = BUILDER.interaction(EVENTFUL, start, frames)
    pictures, block = sequence.layout.pictures, sequence.layout.blocks
    for time in range(1, len(pictures)):
        spans, frame = acts(sequence, time), pictures[time]
        assert [span.agent for span in spans] == [0, 1, 2]
        for agent, span in enumerate(spans):
            done = int(EVENTFUL.actions[start + time - 1, agent])
            is_there = done != UNKNOWN_ACTION
            known = VOCABULARY.range_of(Modality.ACTION).start + done
            assert sequence.ids[span.start] == (known if is_there else VOCABULARY.no_action)
            assert span.role is (Role.TARGET if is_there else Role.STRUCTURE) and span.missing != is_there
        begins = spans[0].start
        assert set(block[begins : frame.stop]) == {block[frame.start]}, "one block, from the first agent on"
        assert begins == 0 or block[begins - 1] != block[frame.start]
        assert frame.start == spans[-1].stop + 1 and spans[-1].stop - begins == 3


def test_agents_are_told_apart_by_height_and_by_order() -> None:
    sequence = BUILDER.interaction(EPISODE, 0, 4)
    positions, ruler = sequence.position_ids(), sequence.position_ids()[:, : max(EPISODE.frames.shape[1:])]
    for time in range(1, 4):
        places = [span.start for span in acts(sequence, time)]
        assert positions[1, places].tolist() == [0, AGENT_SPACING, 2 * AGENT_SPACING]
        assert positions[2, places].tolist() == [0, 0, 0]
        assert np.diff(positions[0, places]).tolist() == [1, 1]
        assert np.array_equal(positions[1, places], ruler[1, :3]), (
            "the ruler's k-th coordinate stands where agent k does"
        )


def test_agent_0_stands_where_a_single_agent_does() -> None:
    """And what is there for everybody is where it was, but for the places that the others take in the order."""
    alone = BUILDER.interaction(toy_episode(3, STEPS), 0, 5)
    together = BUILDER.interaction(replace(EPISODE, actions=np.abs(EPISODE.actions)), 0, 5)
    others = [span.start for span in together.spans if span.is_action and span.agent]
    kept = np.setdiff1d(np.arange(len(together)), others)
    assert len(kept) == len(alone) and (together.modality()[kept] == alone.modality()).all()
    assert (together.layout.blocks[kept] == alone.layout.blocks).all()
    grid = np.isin(alone.modality(), (Modality.IMAGE, Modality.ACTION, Modality.REWARD, Modality.DONE))
    assert (together.position_ids()[1:, kept] == alone.position_ids()[1:])[:, grid].all()


def test_each_agent_is_asked_what_it_does_next_and_all_what_they_get() -> None:
    plain, asking = (BUILDER.interaction(EPISODE, 1, 4, discount=discount) for discount in (None, 0.9))
    answers = [span for span in asking.spans if span.role is Role.AGENT]
    assert len(answers) == 4 * (3 + 1)
    for time in range(4):
        *each, value = answers[4 * time : 4 * time + 4]
        assert [span.agent for span in each] == [0, 1, 2] and value.modality in (Modality.REWARD, Modality.SPECIAL)
        for agent, span in enumerate(each):
            done = int(EPISODE.actions[1 + time, agent])
            known = VOCABULARY.range_of(Modality.ACTION).start + done
            assert asking.ids[span.start] == (VOCABULARY.agent if done == UNKNOWN_ACTION else known)
    world = asking.role() != Role.AGENT
    assert (asking.ids[world] == plain.ids).all(), "the world is as without them"
    assert (asking.position_ids()[:, world] == plain.position_ids()).all()
    # The questions of a moment stand where the actions of the next do.
    nexts, firsts = acts(asking, 1), [span for span in answers if span.time == 0][:3]
    for question, action in zip(firsts, nexts, strict=True):
        assert (asking.position_ids()[:, question.start] == asking.position_ids()[:, action.start]).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, STEPS), st.integers(1, 9), st.sampled_from([EPISODE, EVENTFUL]), st.booleans(), st.booleans(),
    st.sampled_from(["clip", "interaction"]),
)  # fmt: skip
def test_lengths_are_known_before_sequences_are_made(
    start: int, frames: int, episode: TokenisedEpisode, has_sink: bool, asks_agent: bool, kind: SequenceKind
) -> None:
    shape = _shape(episode)
    length = sequence_length(kind, shape, start, frames, has_sink=has_sink, asks_agent=asks_agent)
    discount = 0.9 if asks_agent else None
    assert len(BUILDER.build(kind, episode, start, frames, has_sink=has_sink, discount=discount)) == length


def _shape(episode: TokenisedEpisode):
    """As the index says it."""
    lengths = tokenised_lengths(episode)

    class Reader:
        def lengths(self, number: int, *names: str) -> list[list[int]]:
            return [_listed(lengths[name]) for name in names]

        def optional_lengths(self, number: int, *names: str) -> list[list[int]]:
            return [_listed(lengths.get(name, [])) for name in names]

    return read_shape(Reader(), 0)  # pyright: ignore[reportArgumentType]


def _listed(value) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


@pytest.mark.parametrize("episode", [EPISODE, EVENTFUL, toy_society(1, 1, agents=4)])
def test_actions_of_all_agents_survive_their_shard(episode: TokenisedEpisode, tmp_path: Path) -> None:
    back = decode_tokenised(episode.key, encode_tokenised(episode))
    for name in ("frames", "actions", "rewards", "done", "mission"):
        assert np.array_equal(getattr(episode, name), getattr(back, name)), name
    assert len(back.events) == len(episode.events)
    alone = toy_episode(1)
    entry = write_shard(
        tmp_path / "a.tar",
        [(f"s{n}", encode_tokenised(one), tokenised_lengths(one)) for n, one in enumerate((episode, alone))],
    )
    write_manifest(tmp_path, Manifest((entry,), {"kind": "tokens"}))
    reader = ShardReader(tmp_path)
    assert read_shape(reader, 0).num_agents == episode.actions.shape[1] and read_shape(reader, 1).num_agents == 1


def test_a_damaged_number_of_agents_is_told() -> None:
    with pytest.raises(ValueError, match=r"episode: field tokens\.npy is missing or damaged"):
        whole = encode_tokenised(replace(EPISODE, actions=EPISODE.actions[:-1]))
        decode_tokenised("episode", whole)
