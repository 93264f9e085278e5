"""One update of an alignment step: pictures, read again under masks, become a loss.

Every picture is read several times, with a part of it hidden. What a pass adds to the loss is a weighted sum over the
tokens that it asks for, and the mean over passes is a log-likelihood per token, in one of two senses:

    masks        k of n tokens hidden at random: a bound of how likely the picture is, however it came about
    trajectory   what was hidden in a pass of the drawing, asked for what that pass kept: exactly how likely the codes
                 were that it drew, where they were drawn (compare TraceRL, arXiv 2509.06949)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from data_pipelines.stream.randomness import keyed_generator
from unimodel.batch import PackedBatch
from unimodel.config_objectives import AlignmentConfig
from unimodel.objectives.alignment import (
    clipped_gain,
    divergence,
    draw_mask,
    preference_loss,
    preference_margin,
    preference_slope,
)
from unimodel.training.drawing import Model, Prompts, logits_of
from unimodel.training.step import update_weights
from unimodel.vocabulary import Modality, Vocabulary


@dataclass(frozen=True, slots=True)
class Pictures:
    """What an update learns from, each [pictures, places]: `ids`, the pass in which each was `kept`, and `worth`, of
    grpo its advantage, of dpo 1 in the better and -1 in the worse one of every prompt that has both, else 0."""

    ids: Tensor
    kept: Tensor
    worth: Tensor


@dataclass(frozen=True, slots=True)
class Reads:
    """How pictures are read again, each [pictures, reads, places]: what is `hidden` and, of that, `asked` for, and the
    `weight` of every token that is. The mean over reads of weighted log-probabilities is a log-likelihood per token."""

    hidden: Tensor
    asked: Tensor
    weight: Tensor

    @property
    def count(self) -> int:
        """Per picture."""
        return self.hidden.shape[1]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an update went, equal on all ranks. `kl` [nats per token] and `nats` of a token that was drawn are those of
    the weights before it; `is_far` when that KL was above its bound, and no weight was moved for it."""

    loss: float
    kl: float
    nats: float
    targets: int
    skipped: bool
    is_far: bool

    @property
    def has_moved(self) -> bool:
        return not (self.skipped or self.is_far)


@dataclass(frozen=True, slots=True)
class _Pass:
    """Rows read once: a micro-batch of prompts, with what `pictures` of them have in common. `places` [asked] are those
    that any of them asks for among the places of all prompts, `code` [pictures, asked] what stands there in each,
    `weight` [pictures, asked] as in `Reads`, 0 where one does not ask."""

    batch: PackedBatch
    pictures: Sequence[int]
    places: Tensor
    code: Tensor
    weight: Tensor


class AlignmentUpdate:
    """Updates of what `engine` trains from pictures of `prompts`; `reference` is the model before the stage."""

    def __init__(
        self,
        engine: Any,
        reference: Model,
        settings: AlignmentConfig,
        vocabulary: Vocabulary,
        prompts: Prompts,
        micro_rows: int,
    ) -> None:
        self._engine, self._reference, self._settings, self._prompts = engine, reference, settings, prompts
        self._image, self._mask_id = vocabulary.range_of(Modality.IMAGE), vocabulary.mask(Modality.IMAGE)
        self._micro_rows, self._device = micro_rows, prompts.rows.device
        self._owner = prompts.owner
        self._sizes = self._owner.bincount(minlength=len(prompts.each)).float()

    def draw_reads(self, pictures: Pictures, seed: tuple[int | str, ...]) -> Reads:
        """Told from the seed, each prompt and its pictures alone."""
        count, each = self._settings.masks, self._prompts.each
        if self._settings.likelihood == "trajectory":
            steps = self._settings.drawing.steps
            chosen = [sorted(keyed_generator(*seed, "passes", one.name).permutation(steps)[:count]) for one in each]
            passes = torch.from_numpy(np.array(chosen, dtype=np.int64).reshape(-1, count)).to(self._device)
            passes = passes[self._owner].T
            hidden, asked = pictures.kept[:, None] >= passes, pictures.kept[:, None] == passes
            return Reads(hidden, asked, asked * steps / self._sizes[self._owner])
        rngs = [[keyed_generator(*seed, "mask", n, prompt.name) for prompt in each] for n in range(count)]
        masks = [
            [draw_mask(prompt.num_tokens, n, count, rng) for prompt, rng in zip(each, some, strict=True)]
            for n, some in enumerate(rngs)
        ]
        none = np.zeros(0, dtype=bool)
        hidden = torch.from_numpy(np.stack([np.concatenate([none, *some]) for some in masks])).to(self._device)
        sizes = torch.zeros(count, len(each), device=self._device).index_add_(1, self._owner, hidden.float())
        weight = hidden / sizes[:, self._owner]
        return Reads(*(part.expand(len(pictures.ids), -1, -1) for part in (hidden, hidden, weight)))

    @torch.no_grad()
    def log_likelihoods(self, pictures: Pictures, reads: Reads) -> list[Tensor]:
        """Of every pass, [pictures, asked] log-probabilities of what was drawn, with the weights as they are."""
        return [self._taken(self._chances(self._engine, one)[0], one) for one in self._passes(pictures, reads)]

    def climb(self, pictures: Pictures, reads: Reads, before: Sequence[Tensor], num_prompts: float) -> Outcome:
        """Policy gradient. `before` are the log-likelihoods when the pictures were drawn, () for those of now."""
        settings, sums = self._settings, self._no_sums()

        def losses() -> Iterator[Tensor]:
            for number, one in enumerate(self._passes(pictures, reads)):
                chances, nothing = self._chances(self._engine, one)
                taken, worth = self._taken(chances, one), pictures.worth[one.pictures][:, one.places]
                gain = clipped_gain(taken, before[number] if before else taken.detach(), worth, settings.clip)
                kl = divergence(chances, self._chances_before(one))
                loss = (one.weight * (settings.kl_weight * kl - gain)).sum() + nothing
                sums.add_(_sums(one, taken, kl, loss))
                yield loss

        return self._descend(losses(), sums, num_prompts * len(pictures.ids) * reads.count)

    def prefer(self, pictures: Pictures, reads: Reads, num_pairs: float) -> Outcome:
        """DPO. Its loss is no sum over passes, but its gradient is: how much a pair still counts is found first."""
        scale, sums = self._settings.preference_scale, self._no_sums()
        margin = self._margin(pictures, reads, sums)
        has_pair = torch.zeros_like(margin).index_add_(0, self._owner, pictures.worth[0]) > 0
        sums[0] = preference_loss(margin, scale)[has_pair].sum()
        slope = preference_slope(margin, scale) * self._sizes / reads.count

        def losses() -> Iterator[Tensor]:
            for one in self._passes(pictures, reads):
                chances, nothing = self._chances(self._engine, one)
                worth = pictures.worth[one.pictures][:, one.places] * slope[self._owner[one.places]]
                yield -(one.weight * worth * self._taken(chances, one)).sum() + nothing

        return self._descend(losses(), sums, num_pairs)

    @torch.no_grad()
    def _margin(self, pictures: Pictures, reads: Reads, sums: Tensor) -> Tensor:
        """[prompts] by how many nats the better picture has gained more than the worse one. Adds to `sums`."""
        bounds = torch.zeros(2, len(pictures.ids), len(self._sizes), device=self._device)
        for one in self._passes(pictures, reads):
            owner, scale = self._owner[one.places], self._sizes[self._owner[one.places]] * one.weight / reads.count
            chances, before = self._chances(self._engine, one)[0], self._chances_before(one)
            taken = self._taken(chances, one)
            for bound, likelihood in zip(bounds, (taken, self._taken(before, one)), strict=True):
                bound[one.pictures] = bound[one.pictures].index_add(1, owner, scale * likelihood)
            sums.add_(_sums(one, taken, divergence(chances, before), torch.zeros((), device=self._device)))
        (better, worse), (better_before, worse_before) = bounds
        return preference_margin(better, worse, better_before, worse_before)

    def _descend(self, losses: Iterator[Tensor], sums: Tensor, count: float) -> Outcome:
        """Backward through every loss, and the update. `sums` are complete when the last loss is there; `count` divides
        losses, over all ranks."""
        engine, num_passes = self._engine, self._engine.gradient_accumulation_steps()
        count, skipped, loss_mean, kl, is_far = max(1.0, count), False, math.nan, math.nan, False
        for number, loss in enumerate(losses, start=1):
            if number == num_passes:
                dist.all_reduce(sums)
                loss_mean, kl = float(sums[0]) / count, float(sums[1] / sums[4].clamp(min=1e-9))
                is_far = kl > self._settings.max_kl
                if is_far or not math.isfinite(loss_mean + kl):
                    loss = loss * math.nan  # the engine drops, on all ranks, an update whose gradient is not finite
            # `count` already spans ranks and passes; ZeRO averages over ranks, so undo that.
            scaled = self._settings.coefficient * loss / count * dist.get_world_size()
            engine.backward(scaled, scale_wrt_gas=False)
            if engine.is_gradient_accumulation_boundary():
                skipped = update_weights(engine)
            else:
                engine.step()
        nats = float(sums[2] / sums[3].clamp(min=1.0))
        return Outcome(loss_mean, kl, nats, int(sums[3]), skipped and not is_far, is_far)

    def _passes(self, pictures: Pictures, reads: Reads) -> Iterator[_Pass]:
        """In the same order and as many on every rank."""
        prompts, every = self._prompts, range(len(pictures.ids))
        alone = [[picture] for picture in every]
        groups = [[[*every]] if self._settings.reads_first_pass and not read else alone for read in range(reads.count)]
        for read, some in ((read, some) for read, group in enumerate(groups) for some in group):
            ids, asked, weight = pictures.ids[some], reads.asked[some, read].any(dim=0), reads.weight[some, read]
            batch = prompts.with_ids(ids[0], reads.hidden[some[0], read], asked, self._mask_id)
            for row in range(0, len(batch.input_ids), self._micro_rows):
                here = (prompts.rows >= row) & (prompts.rows < row + self._micro_rows)
                places = (asked & here).nonzero().squeeze(1)
                micro = batch.rows(row, row + self._micro_rows)
                yield _Pass(micro, some, places, ids[:, places] - self._image.start, weight[:, places])

    def _chances(self, model: Model, one: _Pass) -> tuple[Tensor, Tensor]:
        """[asked, codes] log-probabilities, and the 0 of `logits_of`."""
        logits, nothing = logits_of(model, one.batch, self._image)
        return logits.log_softmax(dim=-1), nothing

    @torch.no_grad()
    def _chances_before(self, one: _Pass) -> Tensor:
        """The same of the model before the stage."""
        return self._chances(self._reference, one)[0]

    def _taken(self, chances: Tensor, one: _Pass) -> Tensor:
        """[pictures, asked] of what was drawn."""
        return chances.gather(1, one.code.T).T

    def _no_sums(self) -> Tensor:
        return torch.zeros(5, dtype=torch.float64, device=self._device)


def _sums(one: _Pass, taken: Tensor, kl: Tensor, loss: Tensor) -> Tensor:
    """float64 [5]: loss, KL by weight, nats, tokens asked for and their weights, of one pass."""
    asks = one.weight > 0
    parts = (loss, (one.weight * kl).sum(), -(asks * taken).sum(), asks.sum(), one.weight.sum())
    return torch.stack([part.detach().double() for part in parts])
