"""Memories in front of segments: what passes from one to the next, and what does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_memories import (
    EPISODIC,
    FASTWEIGHT,
    RECURRENT,
    SIDE,
    STEPS,
    TOKENS,
    WINDOW,
    each_memory,
    memory_of,
    remembering,
)
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, all_logits, tiny_backbone, toy_episode

from unimodel.batch import CorruptedSequence, PackedBatch, pack
from unimodel.config_objectives import TeacherForcingConfig
from unimodel.memory.episodic import EpisodicMemory
from unimodel.memory.state import State, detach, from_bytes, num_bytes, rows_of, side_by_side, to_bytes
from unimodel.objectives.corruption import corrupt
from unimodel.objectives.segments import join_segments
from unimodel.vocabulary import Modality


def segments(seed: int, steps: int = 3 * STEPS, *, until: int | None = None) -> list[CorruptedSequence]:
    """An episode in segments. With `until`, another episode with the same frames and actions up to that frame."""
    episode = toy_episode(seed, steps, SIDE)
    if until is not None:
        other = toy_episode(seed + 100, steps, SIDE)
        episode = replace(
            other,
            mission=episode.mission,
            frames=np.concatenate([episode.frames[: until + 1], other.frames[until + 1 :]]),
            actions=np.concatenate([episode.actions[:until], other.actions[until:]]),
            rewards=np.concatenate([episode.rewards[:until], other.rewards[until:]]),
            done=np.concatenate([episode.done[:until], other.done[until:]]),
        )
    settings = TeacherForcingConfig(kind="teacher_forcing", full_fraction=1.0, context_noise_fraction=0.0)
    return [
        corrupt(
            BUILDER.interaction(episode, first, STEPS + 1),
            VOCABULARY,
            settings,
            0,
            np.random.default_rng([seed, first]),
        )
        for first in range(0, steps, STEPS)
    ]


def row(*episodes: list[CorruptedSequence], segments: int = 0) -> PackedBatch:
    whole = [join_segments(episode, TOKENS) for episode in episodes]
    return pack([whole], max(sum(map(len, whole)), segments * TOKENS), PAD_ID)


@each_memory
def test_a_segment_is_read_with_what_came_before_it_and_nothing_of_what_comes(mechanisms: list) -> None:
    backbone = remembering(mechanisms)
    here, there = (all_logits(backbone, row(segments(1, until=until))) for until in (None, 2 * STEPS))
    assert torch.equal(here[:, : 2 * TOKENS], there[:, : 2 * TOKENS])
    # Frames before the last of segment 2 differ now: nothing but the memory tells segment 3.
    early = segments(2)
    late = segments(1)[2:]
    ours, theirs = (all_logits(backbone, row([*past, *late])) for past in (segments(1)[:2], early[:2]))
    shown = row([*early[:2], *late]).document[0, 2 * TOKENS :] >= 0
    assert (ours - theirs)[0, 2 * TOKENS :][shown].abs().max() > 1e-4


@pytest.mark.parametrize(("mechanism", "state"), [(FASTWEIGHT, "fastweight/matrix"), (EPISODIC, "episodic/keys")])
def test_what_a_decoder_no_longer_tells_is_still_written(mechanism: dict, state: str) -> None:
    """A trained decoder's last hidden states hold little of the token they stand at; here they hold nothing."""
    backbone = remembering([mechanism])
    torch.nn.init.zeros_(backbone.decoder.model.norm.weight)
    if backbone.has_grid_positions:  # Qwen3.5 multiplies by 1 + weight
        torch.nn.init.constant_(backbone.decoder.model.norm.weight, -1.0)
    memory = memory_of(backbone)
    written = []
    for seed in (1, 2):
        part, empty = row(segments(seed)[:1]), memory.init(1, torch.device("cpu"))
        segment, hidden = memory.pass_segment(backbone, part, empty)
        assert hidden.abs().max() == 0
        written.append(memory.write(segment, empty)[state])
    assert (written[0] - written[1]).abs().max() > 1e-2


def test_without_a_memory_nothing_passes_from_segment_to_segment() -> None:
    backbone = remembering([])
    one = all_logits(backbone, row(segments(1)))
    for number, segment in enumerate(segments(1)):
        alone = all_logits(backbone, row([segment]))
        here = slice(number * TOKENS, (number + 1) * TOKENS)
        assert torch.allclose(one[:, here], alone, atol=1e-5)
    plain = tiny_backbone()
    assert torch.allclose(all_logits(plain, row(segments(1)[:1])), one[:, :TOKENS], atol=1e-4)


@each_memory
def test_an_episode_starts_with_an_empty_memory_wherever_it_stands_in_a_row(mechanisms: list) -> None:
    """Rows with other resets, side by side, equal each episode by itself."""
    backbone = remembering(mechanisms)
    short, long = segments(1, 2 * STEPS), segments(2, 3 * STEPS)
    rows = [row(short, long), row(long, short), row(long, segments=5)]
    batch = PackedBatch(
        **{
            name: torch.cat([getattr(one, name) for one in rows], dim=1 if name == "position_ids" else 0)
            for name in PackedBatch.__slots__
        }
    )
    together = all_logits(backbone, batch)
    alone = {id(episode): all_logits(backbone, row(episode)) for episode in (short, long)}
    for number, episodes in enumerate([(short, long), (long, short), (long,)]):
        begin = 0
        for episode in episodes:
            expected = alone[id(episode)][0]
            shown = row(episode).document[0] >= 0
            made = together[number, begin : begin + len(expected)]
            assert (made - expected)[shown].abs().max() < 1e-4
            begin += len(expected)


@pytest.mark.parametrize("mechanisms", [[RECURRENT], [FASTWEIGHT]], ids=["recurrent", "fastweight"])
@pytest.mark.parametrize("truncation", [2, 3])
def test_a_gradient_passes_so_many_segments_and_is_exactly_zero_beyond(mechanisms: list, truncation: int) -> None:
    backbone = remembering(mechanisms, truncation_segments=truncation)
    batch = row(segments(1, 4 * STEPS))
    embedded: list[Tensor] = []
    table = backbone.decoder.get_input_embeddings()

    def keep(_module: object, _inputs: object, output: Tensor) -> None:
        if output.ndim == 3 and output.shape[1] == TOKENS:
            output.retain_grad()
            embedded.append(output)

    handle = table.register_forward_hook(keep)
    hidden = backbone.hidden(batch)
    handle.remove()
    last = 3 if truncation == 3 else 1  # the segment just before or after the state was cut
    (hidden[:, last * TOKENS : (last + 1) * TOKENS] ** 2).sum().backward()
    reached = [part.grad is not None and bool(part.grad.abs().max() > 0) for part in embedded]
    # States are cut before segments 2, 4, ... (3, 6, ...).
    expected = {2: [True, True, False, False], 3: [False, False, False, True]}[truncation]
    assert reached == expected


def test_detaching_gives_a_new_state_and_leaves_the_old_one() -> None:
    """Rebinding a name inside a function, as released code did, leaves the caller's graph whole."""
    source = torch.ones(2, 3, requires_grad=True)
    state: State = {"recurrent/tokens": source * 2}
    cut = detach(state)
    assert cut["recurrent/tokens"].grad_fn is None and state["recurrent/tokens"].grad_fn is not None
    assert torch.equal(cut["recurrent/tokens"], state["recurrent/tokens"])


@each_memory
def test_a_state_survives_its_bytes_and_never_changes_in_place(mechanisms: list) -> None:
    backbone = remembering(mechanisms)
    memory = memory_of(backbone)
    with torch.no_grad():
        state = memory.init(1, torch.device("cpu"))
        kept = [to_bytes(state)]
        for segment in segments(1):
            written, _ = memory.pass_segment(backbone, row([segment]), state)
            before, state = state, memory.write(written, state)
            assert all(torch.equal(before[key], kept[-1][key]) for key in before)
            kept.append(to_bytes(state))
    again = from_bytes(kept[-1], memory.init(1, torch.device("cpu")))
    assert all(torch.equal(again[key], state[key]) for key in state)
    assert num_bytes(state) == sum(value.nbytes for value in kept[-1].values())
    twice = side_by_side([state, rows_of(state, [0])])
    assert all(len(value) == 2 for value in twice.values())


def test_the_state_of_another_memory_is_refused_by_name() -> None:
    small, large = (
        memory_of(remembering([RECURRENT | {"tokens": tokens}])).init(1, torch.device("cpu")) for tokens in (3, 4)
    )
    with pytest.raises(ValueError, match=r"recurrent/tokens .*3, 32.* where this model's has .*4, 32"):
        from_bytes(to_bytes(small), large)
    other = memory_of(remembering([EPISODIC])).init(1, torch.device("cpu"))
    with pytest.raises(ValueError, match="written by another model"):
        from_bytes(to_bytes(small), other)


def test_every_frame_is_written_once_and_recalled_as_it_was() -> None:
    backbone = remembering([WINDOW | {"frames": 5}, EPISODIC])
    memory = memory_of(backbone)
    episode = toy_episode(1, 3 * STEPS, SIDE)
    with torch.no_grad():
        state = memory.init(1, torch.device("cpu"))
        for segment in segments(1):
            state = memory.write(memory.pass_segment(backbone, row([segment]), state)[0], state)
    first_id = VOCABULARY.range_of(Modality.IMAGE).start
    shown = episode.frames[:-1].reshape(3 * STEPS, -1)
    assert torch.equal(state["window/ids"][0] - first_id, torch.from_numpy(shown[-5:]))
    assert torch.equal(state["episodic/ids"][0] - first_id, torch.from_numpy(shown))  # capacity 6, in order
    assert int(state["episodic/count"][0]) == 3 * STEPS and bool(state["episodic/present"].all())


def test_what_is_not_recalled_teaches_its_key_through_the_gist() -> None:
    """And the gist is the key of the one frame that fits where no other fits as well."""
    episodic = memory_of(remembering([EPISODIC | {"recalled_frames": 1}])).mechanisms["episodic"]
    assert isinstance(episodic, EpisodicMemory)
    state = episodic.init(1, torch.device("cpu"))
    where = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    query = torch.nn.functional.normalize(episodic.query(where), dim=-1).detach()
    keys = torch.cat([query, *([-query] * 3)])[None].requires_grad_()  # one that fits, three that could not less
    present = torch.tensor([[True] * 4 + [False] * 2])
    state |= {"keys": torch.cat([keys, torch.zeros(1, 2, 8)], dim=1), "present": present, "where": where}
    prefix = episodic.read(state, torch.nn.Embedding(VOCABULARY.size, 32))
    assert prefix.shown.tolist() == [[True] * (1 + SIDE * SIDE)]
    prefix.embeds.sum().backward()
    assert keys.grad is not None and (keys.grad[0, 1:].abs().sum(dim=1) > 0).all()
    gist = prefix.embeds[0, 0] - episodic.embed_gist.weight[0]
    torch.testing.assert_close(gist, episodic.gist(query)[0], atol=1e-4, rtol=1e-4)
    nothing = episodic.read(episodic.init(1, torch.device("cpu")), torch.nn.Embedding(VOCABULARY.size, 32))
    assert not nothing.shown.any() and nothing.embeds.isfinite().all()
