"""Who sees whom: the rule, its two masks, and a real backbone that obeys it.

Run: pytest tests/invariants/test_visibility.py
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, all_logits, laid_out, tiny_backbone, toy_episode

from unimodel.backbone.attention import attention_implementation, attention_mask, block_mask
from unimodel.backbone.model import Backbone
from unimodel.batch import PADDING_DOCUMENT, CorruptedSequence, PackedBatch, dense_mask, pack
from unimodel.config_objectives import DiffusionForcingConfig
from unimodel.layout import CAUSAL, Span
from unimodel.objectives.corruption import corrupt
from unimodel.vocabulary import Modality


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone()


def seen(block: list[int], stream: list[int] | None = None) -> np.ndarray:
    """bool [n, n] of one unpadded document: may row see column?"""
    sequence = laid_out(np.arange(len(block)) + 3, np.array(block), None if stream is None else np.array(stream))
    return dense_mask(pack([[sequence]], len(block), PAD_ID))[0, 0].numpy()


def test_text_is_causal() -> None:
    assert (seen([CAUSAL] * 5) == np.tril(np.ones((5, 5), dtype=bool))).all()


def test_image_block_sees_itself_both_ways_and_nothing_later() -> None:
    mask = seen([CAUSAL, CAUSAL, 0, 0, 0, CAUSAL])
    expected = np.tril(np.ones((6, 6), dtype=bool))
    expected[2:5, 2:5] = True
    assert (mask == expected).all()


def test_two_blocks_of_one_document_are_causal_to_each_other() -> None:
    mask = seen([0, 0, 1, 1])
    assert mask[0, 1] and mask[2, 3], "inside a block both ways"
    assert mask[2:, :2].all(), "the later block sees the earlier one"
    assert not mask[:2, 2:].any(), "the earlier block does not see the later one"


def test_blocks_of_packed_documents_never_merge() -> None:
    first, second = (laid_out(np.arange(3) + 3, np.zeros(3)) for _ in range(2))
    batch = pack([[first, second]], 8, PAD_ID)
    mask = dense_mask(batch)[0, 0]
    assert mask[:3, :3].all() and mask[3:6, 3:6].all()
    assert not mask[:3, 3:].any() and not mask[3:6, :3].any()
    assert batch.block[0, 0] != batch.block[0, 3], "ids are renumbered, so no other rule may merge them either"


def test_noisy_stream_is_seen_by_itself_only() -> None:
    """clean frame 1 | noisy copy of frame 2 | clean copy of frame 2 | noisy copy of frame 3"""
    mask = seen([0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 1, 1, 0, 0, 2, 2])
    noisy, clean_copy, other = slice(2, 4), slice(4, 6), slice(6, 8)
    assert mask[noisy, noisy].all() and mask[noisy, :2].all(), "a noisy copy sees the clean past and itself"
    assert not mask[clean_copy, noisy].any(), "clean tokens never see noise"
    assert not mask[other, noisy].any(), "one noisy copy never sees another"
    assert mask[other, clean_copy].all()


def test_padding_sees_only_itself_and_is_seen_by_nobody() -> None:
    mask = dense_mask(pack([[laid_out(np.arange(3) + 3, np.zeros(3))], []], 6, PAD_ID))[:, 0].numpy()
    assert (mask[0, 3:] == np.eye(6, dtype=bool)[3:]).all()
    assert not mask[0, :3, 3:].any()
    assert (mask[1] == np.eye(6, dtype=bool)).all(), "an empty row has a defined softmax"


# --- the two masks --------------------------------------------------------------------------------------------------


@st.composite
def layouts(draw: st.DrawFn) -> PackedBatch:
    """Any integers at all in document, block and stream, also ones that no packing makes."""
    rows, length = draw(st.integers(1, 3)), draw(st.sampled_from([1, 7, 64, 130, 200]))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    runs = draw(st.booleans())  # neighbours alike, as in real rows, or every token for itself

    def integers(low: int, high: int) -> torch.Tensor:
        values = rng.integers(low, high, size=(rows, length))
        return torch.from_numpy(np.sort(values, axis=1) if runs else values)

    empty = pack([[] for _ in range(rows)], length, PAD_ID)
    return replace(empty, document=integers(-1, 3), block=integers(-1, 4), stream=integers(0, 3))


@given(layouts())
@settings(max_examples=40)
def test_dense_mask_equals_flex_attention_block_mask(batch: PackedBatch) -> None:
    """The block mask's rule token by token, and its tiles: none is skipped in which something is visible."""
    dense, blocks = dense_mask(batch), block_mask(batch)
    rows, length = batch.document.shape
    assert torch.equal(create_mask(blocks.mask_mod, rows, 1, length, length, device="cpu"), dense)
    side = blocks.BLOCK_SIZE[0]
    tiles = -(-length // side)
    padded = torch.zeros(rows, 1, tiles * side, tiles * side, dtype=torch.bool)
    padded[..., :length, :length] = dense
    needed = padded.view(rows, 1, tiles, side, tiles, side).any(dim=5).any(dim=3)
    assert torch.equal(blocks.to_dense().bool(), needed)


def test_cpu_gets_the_dense_mask() -> None:
    batch = pack([[laid_out(np.arange(3) + 3, np.zeros(3))]], 4, PAD_ID)
    assert isinstance(attention_mask(batch, attention_implementation(torch.device("cpu"))), torch.Tensor)


# --- a real backbone ------------------------------------------------------------------------------------------------


def random_document(rng: np.random.Generator, length: int) -> CorruptedSequence:
    """Causal text, blocks and noisy copies in runs, as objectives make them."""
    block, stream = np.full(length, CAUSAL), np.zeros(length, dtype=np.int64)
    start = number = 0
    while start < length:
        stop = min(length, start + int(rng.integers(1, 6)))
        kind = rng.choice(["text", "image", "noisy"])
        if kind != "text":
            block[start:stop] = number
            stream[start:stop] = number + 1 if kind == "noisy" else 0
            number += 1
        start = stop
    return laid_out(rng.integers(3, VOCABULARY.text_size, size=length), block, stream)


def repeat_row(batch: PackedBatch, times: int) -> PackedBatch:
    rows = [batch.rows(0, 1)] * times
    names = [field.name for field in fields(PackedBatch)]
    return PackedBatch(
        **{n: torch.cat([getattr(r, n) for r in rows], dim=1 if n == "position_ids" else 0) for n in names}
    )


def test_hidden_token_never_changes_a_visible_position(backbone: Backbone) -> None:
    """Every token of a packed row in turn: logits move where it is visible, and nowhere else, by exactly 0."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        batch = pack([[random_document(rng, 13), random_document(rng, 9)]], 24, PAD_ID)
        mask = dense_mask(batch)[0, 0]
        assert torch.equal((mask.float() @ mask.float()) > 0, mask), "what is hidden stays hidden at any depth"
        places = torch.arange(24)
        unchanged = repeat_row(batch, 24)
        ids = unchanged.input_ids.clone()
        ids[places, places] = VOCABULARY.mask(Modality.TEXT)
        changed, before = replace(unchanged, input_ids=ids), all_logits(backbone, unchanged)
        moved = (all_logits(backbone, changed) - before).abs().amax(dim=-1)  # [changed token, place]
        assert (moved[~mask.T] == 0).all(), "a hidden token leaks"
        assert (moved[mask.T] > 0).all(), "a visible token is ignored"


def test_packing_gives_the_logits_of_each_sequence_alone(backbone: Backbone) -> None:
    rng = np.random.default_rng(7)
    first, second = random_document(rng, 17), random_document(rng, 11)
    packed = all_logits(backbone, pack([[first, second]], 32, PAD_ID))[0]
    alone = [all_logits(backbone, pack([[sequence]], len(sequence), PAD_ID))[0] for sequence in (first, second)]
    assert (packed[:28] - torch.cat(alone)).abs().max() < 1e-5


def test_packing_real_objectives_gives_the_logits_of_each_sequence_alone(backbone: Backbone) -> None:
    """The same with 3-D positions, images and MASK tokens."""
    corrupted = [corrupted_interaction(seed) for seed in (1, 2)]
    length = sum(len(sequence) for sequence in corrupted)
    packed = all_logits(backbone, pack([corrupted], length + 5, PAD_ID))[0]
    alone = [all_logits(backbone, pack([[sequence]], len(sequence), PAD_ID))[0] for sequence in corrupted]
    assert (packed[:length] - torch.cat(alone)).abs().max() < 1e-5


# --- frames and actions ---------------------------------------------------------------------------------------------


def corrupted_interaction(seed: int) -> CorruptedSequence:
    config = DiffusionForcingConfig(kind="diffusion_forcing")
    sequence = BUILDER.interaction(toy_episode(seed), start=0, frames=5)
    return corrupt(sequence, VOCABULARY, config, 0, np.random.default_rng(seed))


def spans_of(modality: Modality) -> list[Span]:
    return [s for s in BUILDER.interaction(toy_episode(1), start=0, frames=5).spans if s.modality is modality]


def change(backbone: Backbone, places: slice, shift: int, modality: Modality) -> torch.Tensor:
    """[n] how far the logits of every place move when the tokens at `places` take other values of their modality."""
    sequence = corrupted_interaction(1)
    batch = pack([[sequence]], len(sequence), PAD_ID)
    ids = batch.input_ids.clone()
    start, size = VOCABULARY.range_of(modality).start, VOCABULARY.size_of(modality)
    ids[0, places] = (ids[0, places] - start + shift) % size + start
    changed = replace(batch, input_ids=ids)
    assert not torch.equal(ids, batch.input_ids)
    return (all_logits(backbone, changed) - all_logits(backbone, batch))[0].abs().amax(dim=-1)


@pytest.mark.parametrize("step", range(4))
def test_action_changes_its_next_frame_and_nothing_earlier(backbone: Backbone, step: int) -> None:
    """Action t - 1 stands right before frame t."""
    action, frame = spans_of(Modality.ACTION)[step], spans_of(Modality.IMAGE)[step + 1]
    moved = change(backbone, slice(action.start, action.stop), 1, Modality.ACTION)
    assert (moved[: action.start] == 0).all(), "an action changes the past"
    assert (moved[frame.start : frame.stop] > 0).all(), "the frame it led to does not see it"


@pytest.mark.parametrize("number", range(1, 5))
def test_later_frame_never_changes_an_earlier_one(backbone: Backbone, number: int) -> None:
    """Only the action that led to a frame sees it from in front."""
    frame, action = spans_of(Modality.IMAGE)[number], spans_of(Modality.ACTION)[number - 1]
    moved = change(backbone, slice(frame.stop - 1, frame.stop), 1, Modality.IMAGE)
    assert (moved[: action.start] == 0).all(), "a frame changes the past"
    assert (moved[action.start :] > 0).all(), "its action, its other tokens or the future do not see its last token"


def test_padding_rows_have_finite_logits(backbone: Backbone) -> None:
    batch = pack([[corrupted_interaction(1)], []], 96, PAD_ID)
    assert (batch.document[1] == PADDING_DOCUMENT).all()
    assert torch.isfinite(all_logits(backbone, batch)).all()
