"""Training on the model's own frames: teacher-forced windows whose clean frames it has made itself.

One pass predicts every frame of a window at once, each in its noisy copy from the clean frames before it. Put in the
places of these, the predictions are the past of the next pass: after j passes a frame comes from frames that j - 1
passes made, so k passes are a rollout of k steps at every place of the window (compare DIAMOND's rollouts in training,
arXiv 2405.12399, and Self-Forcing, arXiv 2506.08009). The copies then ask for the real frames.

All ranks make the same number of passes, whatever their rows hold: under ZeRO 3 every pass gathers weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from data_pipelines.stream.randomness import keyed_generator
from unimodel.backbone.sequence_parallel import SequenceGroup
from unimodel.batch import PackedBatch
from unimodel.config import StageConfig
from unimodel.layout import CLEAN, NO_TARGET
from unimodel.training.device_memory import PASSES, memory_for
from unimodel.vocabulary import Modality, Vocabulary

MADE = (Modality.IMAGE, Modality.AUDIO)


@memory_for(PASSES)
@torch.no_grad()
def with_own_frames(
    model: Callable[[PackedBatch], Tensor],
    sequence: SequenceGroup,
    batch: PackedBatch,
    stage: StageConfig,
    vocabulary: Vocabulary,
    *,
    stage_step: int,
    seed: tuple[int | str, ...],
) -> PackedBatch:
    """This rank's `batch` of step `stage_step`, with frames that `model` made instead of clean ones in a share of its
    windows, where `stage.own_rollout` asks for that. Everything else, targets too, stays.

    What is drawn follows from `seed`, the step and what a window holds: it does not matter which rank has it.
    """
    settings = stage.own_rollout
    if settings is None or stage_step < settings.after * stage.steps:
        return batch
    copies = find_copies(batch)
    draws = uniform_numbers(batch, copies, settings.steps, (*seed, stage_step))
    chosen = torch.from_numpy(draws[0] < settings.fraction).to(batch.input_ids.device)
    hidden = batch.input_ids.clone()
    for modality in MADE:
        if vocabulary.size_of(modality):
            hidden[copies.is_copy & (batch.modality == modality)] = vocabulary.mask(modality)
    asking = replace(batch, input_ids=hidden, target=torch.where(copies.is_copy, 0, NO_TARGET))
    made = batch.input_ids[copies.rows, copies.clean]
    # Each pass reads what the one before has made: `asking` holds `hidden` itself.
    for uniform in draws[1:]:
        made = torch.where(chosen, _predict(model, sequence, asking, copies, vocabulary, stage, uniform), made)
        hidden[copies.rows, copies.clean] = made
    input_ids = batch.input_ids.clone()
    input_ids[copies.rows, copies.clean] = made
    return replace(batch, input_ids=input_ids)


@dataclass(frozen=True, slots=True)
class Copies:
    """Where the codes of noisy copies stand in a batch, in row-major order, and where those of their clean ones."""

    is_copy: Tensor
    """bool [rows, length]"""
    rows: Tensor
    """[codes]"""
    noisy: Tensor
    """[codes] the column of a code in its copy."""
    clean: Tensor
    """[codes] the column of the same code in the clean frame."""


def find_copies(batch: PackedBatch) -> Copies:
    """A clean frame follows its noisy copy, and has as many tokens."""
    stream, columns = batch.stream, torch.arange(batch.stream.shape[1], device=batch.stream.device)
    begins = torch.zeros_like(stream, dtype=torch.bool)
    begins[:, 1:] = (stream[:, 1:] != stream[:, :-1]) | (batch.document[:, 1:] != batch.document[:, :-1])
    run = begins.cumsum(dim=1)
    run_tokens = torch.zeros_like(stream).scatter_add_(1, run, torch.ones_like(stream)).gather(1, run)
    is_code = torch.zeros_like(begins)
    for modality in MADE:
        is_code |= batch.modality == modality
    is_copy = is_code & (stream != CLEAN)
    rows, noisy = is_copy.nonzero(as_tuple=True)
    clean = (columns + run_tokens)[rows, noisy]
    return Copies(is_copy, rows, noisy, clean)


def uniform_numbers(batch: PackedBatch, copies: Copies, passes: int, seed: tuple[int | str, ...]) -> np.ndarray:
    """float64 [1 + passes, codes] uniform numbers: one for the whole window, and one for every code in every pass."""
    document, ids = batch.document.cpu().numpy(), batch.input_ids.cpu().numpy()
    rows, noisy = copies.rows.cpu().numpy(), copies.noisy.cpu().numpy()
    draws = np.zeros((1 + passes, len(rows)))
    of_document = document[rows, noisy]
    for row, number in np.unique(np.stack([rows, of_document]), axis=1).T:
        window = hashlib.blake2b(ids[row, document[row] == number].tobytes(), digest_size=16).hexdigest()
        rng, here = keyed_generator(*seed, "own frames", window), (rows == row) & (of_document == number)
        draws[0, here] = rng.random()
        draws[1:, here] = rng.random((passes, int(here.sum())))
    return draws


def _predict(
    model: Callable[[PackedBatch], Tensor],
    sequence: SequenceGroup,
    asking: PackedBatch,
    copies: Copies,
    vocabulary: Vocabulary,
    stage: StageConfig,
    uniform: np.ndarray,
) -> Tensor:
    """[codes] an id for every code of the copies, drawn as `uniform` [codes] says. Ranks that share rows each ask at
    their own places and tell each other."""
    numbers = torch.zeros_like(asking.input_ids, dtype=torch.float64)
    numbers[copies.rows, copies.noisy] = torch.from_numpy(uniform).to(numbers.device)
    drawn = torch.zeros_like(asking.input_ids)
    rows = len(drawn) // stage.batch.accumulation
    for start in range(0, len(drawn), rows):
        micro = asking.rows(start, start + rows)
        logits, own = model(micro), sequence.part(micro)
        row, column = (own.target != NO_TARGET).nonzero(as_tuple=True)
        where = (start + row, sequence.rank * own.target.shape[1] + column)
        drawn[where] = draw_ids(logits, own.modality[row, column], numbers[where], vocabulary)
    if sequence.size > 1:
        dist.all_reduce(drawn, group=sequence.ranks)
    return drawn[copies.rows, copies.noisy]


def draw_ids(logits: Tensor, modality: Tensor, uniform: Tensor, vocabulary: Vocabulary) -> Tensor:
    """[n] an id of each token's own modality, from logits [n, vocabulary] and uniform numbers [n] in [0, 1)."""
    ids = torch.zeros_like(modality)
    for kind in MADE:
        here, of_kind = modality == kind, vocabulary.range_of(kind)
        if of_kind and here.any():
            cumulative = logits[here, of_kind.start : of_kind.stop].double().softmax(dim=-1).cumsum(dim=-1)
            code = torch.searchsorted(cumulative, uniform[here][:, None], right=True).squeeze(1)
            ids[here] = of_kind.start + code.clamp(max=len(of_kind) - 1)
    return ids
