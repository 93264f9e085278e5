"""The objects that cross every boundary: `TokenSequence` (one sample, tokenised), `PackedBatch` (what a step eats).

A sequence is ids plus spans; an objective turns it into a `CorruptedSequence`; packing lays several of those side by
side into rows. Which token may see which is *one* rule over `document`, `block` and `stream`, written here once
(`visible`), and every attention pattern of the project is a setting of those three integers:

    causal text             block -1
    bidirectional image     one block id for the image's tokens
    masked pretraining      one block for the whole document
    block-causal frames     one block per frame
    teacher-forced frames   a noisy copy of a frame (stream n) in front of its clean copy (stream 0)

Axis names: rows, length, n (tokens of one sequence).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unimodel.layout import CAUSAL, CLEAN, KNOWN_LAYOUTS, NO_TARGET, Layout, Span
from unimodel.vocabulary import Modality

PADDING_DOCUMENT = -1
NOWHERE = -1
"""Stream, before packing, of places inside a sequence on which nothing stands: packed they are padding."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One tokenised sample: `ids` [n] int64 and the layout of its spans, which cover it exactly.

    `key` names the sample in the shards and seeds every random draw made on it.
    """

    key: str
    ids: np.ndarray
    layout: Layout

    def __post_init__(self) -> None:
        assert self.layout.length == len(self.ids), (self.key, self.layout.length, len(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def spans(self) -> tuple[Span, ...]:
        return self.layout.spans

    def modality(self) -> np.ndarray:
        """[n] the modality of every token, read-only."""
        return self.layout.modality

    def role(self) -> np.ndarray:
        """[n] the role of every token, read-only."""
        return self.layout.role

    def position_ids(self) -> np.ndarray:
        """[3, n] see `Layout.position_ids`; read-only."""
        return self.layout.position_ids


@dataclass(frozen=True, slots=True)
class CorruptedSequence:
    """A sequence after an objective: what the model reads and what it must answer. Arrays of length n.

    `objective` is the index of the objective on every token that its normaliser counts and -1 elsewhere: masked
    objectives with a likelihood bound count all maskable tokens, the others only their targets.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    block: np.ndarray
    stream: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    objective: np.ndarray
    modality: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


SEQUENCE_FIELDS = tuple(field.name for field in fields(CorruptedSequence))


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Rows of packed sequences. No optional field; every tensor is [rows, length] but `position_ids` [3, rows, length].

    input_ids     int64, after corruption
    position_ids  int64, (time, height, width); never restart inside a document
    document      int64, which packed sequence of the row a token belongs to; -1 is padding
    block         int64, tokens of one block see each other both ways; -1 is plain causal
    stream        int64, 0 clean; n > 0 the n-th noisy copy, seen by itself only
    target        int64, what the hidden state at this place must predict; -100 none
    weight        float32, loss weight of the target
    objective     int64, the objective whose normaliser counts this token; -1 none
    modality      int64, `Modality` of the token
    """

    input_ids: Tensor
    position_ids: Tensor
    document: Tensor
    block: Tensor
    stream: Tensor
    target: Tensor
    weight: Tensor
    objective: Tensor
    modality: Tensor

    def __reduce__(self) -> tuple[Callable[..., PackedBatch], tuple[np.ndarray, ...]]:
        """Crosses from a worker as arrays: of tensors torch would make nine files in shared memory."""
        return _from_arrays, tuple(getattr(self, f.name).numpy() for f in fields(self))

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.document != PADDING_DOCUMENT).sum())

    def to(self, device: torch.device | str) -> PackedBatch:
        return replace(self, **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def pin_memory(self) -> PackedBatch:
        """In page-locked memory, for copies to a GPU that run beside the computation."""
        return replace(self, **{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})

    def rows(self, start: int, stop: int) -> PackedBatch:
        """The batch of rows `[start, stop)`."""
        return PackedBatch(
            **{
                f.name: getattr(self, f.name)[:, start:stop]
                if f.name == "position_ids"
                else getattr(self, f.name)[start:stop]
                for f in fields(self)
            }
        )

    def columns(self, start: int, stop: int) -> PackedBatch:
        """The batch of places `[start, stop)` of every row."""
        return PackedBatch(**{f.name: getattr(self, f.name)[..., start:stop] for f in fields(self)})


def _from_arrays(*arrays: np.ndarray) -> PackedBatch:
    return PackedBatch(*map(torch.from_numpy, arrays))


class Visibility(NamedTuple):
    """The part of a batch that the rule looks at, int64 [rows, length] each."""

    document: Tensor
    block: Tensor
    stream: Tensor


def visible(
    query_index: Tensor,
    key_index: Tensor,
    query: tuple[Tensor, Tensor, Tensor],
    key: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """The visibility rule on broadcastable tensors; `query` and `key` are (document, block, stream).

    A query sees a key iff they share a document, and the key is not later or both are in one block, and the key is
    clean or in the query's own stream. Every token also sees itself, so that padding rows have a defined softmax.
    """
    (query_document, query_block, query_stream), (key_document, key_block, key_stream) = query, key
    same_document = (query_document == key_document) & (query_document != PADDING_DOCUMENT)
    not_later = key_index <= query_index
    same_block = (query_block == key_block) & (query_block != CAUSAL)
    readable = (key_stream == CLEAN) | (key_stream == query_stream)
    return (same_document & (not_later | same_block) & readable) | (query_index == key_index)


def dense_mask(batch: PackedBatch | Visibility) -> Tensor:
    """bool [rows, 1, length, length], True where attention is allowed. For SDPA (CPU and tests); memory is length^2."""
    index = torch.arange(batch.document.shape[1], device=batch.document.device)
    parts = (batch.document, batch.block, batch.stream)
    query = tuple(part[:, None, :, None] for part in parts)
    key = tuple(part[:, None, None, :] for part in parts)
    return visible(index[:, None], index[None, :], query, key)  # pyright: ignore[reportArgumentType]


def pack(rows: Sequence[Sequence[CorruptedSequence]], row_tokens: int, pad_id: int) -> PackedBatch:
    """Lays each list of sequences side by side into one row of `row_tokens` tokens, padded at the end.

    Block ids are renumbered so that they are unique in a row: blocks of two documents never merge.
    Raises ValueError when the sequences of a row are longer than `row_tokens`.
    """
    pieces: list[CorruptedSequence] = []
    documents: list[int] = []
    for number, sequences in enumerate(rows):
        used = sum(map(len, sequences))
        if used > row_tokens:
            raise ValueError(f"row {number} needs {used} tokens but a row holds {row_tokens}: raise batch.row_tokens")
        pieces += sequences
        documents += range(len(sequences))
        if used < row_tokens:
            pieces.append(padding(row_tokens - used, pad_id))
            documents.append(PADDING_DOCUMENT)
    # One call per field for the whole batch: a call per sequence would cost more than what it copies.
    shape = (len(rows), row_tokens)
    arrays = {field: np.concatenate([getattr(piece, field) for piece in pieces], axis=-1) for field in SEQUENCE_FIELDS}
    lengths = [len(piece) for piece in pieces]
    arrays["document"] = np.repeat(np.array(documents, dtype=np.int64), lengths)
    arrays["block"] = _unique_blocks(arrays["block"], documents, lengths)
    empty = arrays["stream"] == NOWHERE
    arrays["document"][empty], arrays["stream"][empty] = PADDING_DOCUMENT, CLEAN
    return PackedBatch(
        **{
            name: torch.from_numpy(array.reshape(3, *shape) if name == "position_ids" else array.reshape(shape))
            for name, array in arrays.items()
        }
    )


@lru_cache(maxsize=KNOWN_LAYOUTS)
def padding(length: int, pad_id: int) -> CorruptedSequence:
    """What fills up a row, or a sequence up to some place in it."""
    none = np.full(length, -1, dtype=np.int64)
    return CorruptedSequence(
        input_ids=np.full(length, pad_id, dtype=np.int64),
        position_ids=np.zeros((3, length), dtype=np.int64),
        block=np.full(length, CAUSAL, dtype=np.int64),
        stream=np.full(length, NOWHERE, dtype=np.int64),
        target=np.full(length, NO_TARGET, dtype=np.int64),
        weight=np.zeros(length, dtype=np.float32),
        objective=none,
        modality=np.full(length, int(Modality.SPECIAL), dtype=np.int64),
    )


def _unique_blocks(block: np.ndarray, documents: Sequence[int], lengths: Sequence[int]) -> np.ndarray:
    """The blocks of documents one after another, each document's counted on from those before it in its row."""
    starts = np.cumsum(np.asarray(lengths, dtype=np.int64)) - lengths
    counts = (np.maximum.reduceat(block, starts) + 1).tolist()
    first, firsts = 0, []
    for document, count in zip(documents, counts, strict=True):
        first = 0 if document == 0 else first
        firsts.append(first)
        first += count
    return np.where(block == CAUSAL, CAUSAL, block + np.repeat(np.array(firsts, dtype=np.int64), lengths))
