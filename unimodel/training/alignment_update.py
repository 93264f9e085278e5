"""One update of an alignment step: pictures, read again under masks, become a loss.

Every picture of every prompt is read once per mask. What a pass adds to the loss is a sum over its hidden tokens, each
weighing 1 over how many its prompt has hidden, so a sum over passes is a bound of the log-likelihood per token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
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
    """What an update learns from: `ids` [pictures, places], and `worth` [pictures, prompts], of grpo the advantage of a
    picture, of dpo 1 for the better one and -1 for the worse one of every prompt that has both, else 0."""

    ids: Tensor
    worth: Tensor


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
    """Rows read once: a micro-batch of picture number `picture` of every prompt under one mask. `places` [hidden] are
    those that it hides among the places of all prompts, `code` [hidden] what stands there, `weight` [hidden] 1 over how
    many their prompt has hidden."""

    batch: PackedBatch
    picture: int
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
        sizes = torch.tensor([prompt.num_tokens for prompt in prompts.each], dtype=torch.long, device=self._device)
        self._owner = torch.arange(len(sizes), device=self._device).repeat_interleave(sizes)
        self._sizes = sizes.float()

    def draw_masks(self, seed: tuple[int | str, ...]) -> Tensor:
        """bool [masks, places], told from the seed and each prompt alone."""
        count, each = self._settings.masks, self._prompts.each
        rngs = [[keyed_generator(*seed, "mask", n, prompt.name) for prompt in each] for n in range(count)]
        masks = [
            [draw_mask(prompt.num_tokens, n, count, rng) for prompt, rng in zip(each, some, strict=True)]
            for n, some in enumerate(rngs)
        ]
        none = np.zeros(0, dtype=bool)
        return torch.from_numpy(np.stack([np.concatenate([none, *some]) for some in masks])).to(self._device)

    @torch.no_grad()
    def log_likelihoods(self, pictures: Pictures, masks: Tensor) -> list[Tensor]:
        """Of every pass, [hidden] log-probabilities of what was drawn, with the weights as they are."""
        return [self._taken(self._chances(self._engine, one)[0], one) for one in self._passes(pictures, masks)]

    def climb(self, pictures: Pictures, masks: Tensor, before: Sequence[Tensor], num_prompts: float) -> Outcome:
        """Policy gradient. `before` are the log-likelihoods when the pictures were drawn, () for those of now."""
        settings, sums = self._settings, self._no_sums()

        def losses() -> Iterator[Tensor]:
            for number, one in enumerate(self._passes(pictures, masks)):
                chances, nothing = self._chances(self._engine, one)
                taken, worth = self._taken(chances, one), pictures.worth[one.picture, self._owner[one.places]]
                gain = clipped_gain(taken, before[number] if before else taken.detach(), worth, settings.clip)
                kl = divergence(chances, self._chances_before(one))
                loss = (one.weight * (settings.kl_weight * kl - gain)).sum() + nothing
                sums.add_(_sums(one, taken, kl, loss))
                yield loss

        return self._descend(losses(), sums, num_prompts * len(pictures.ids) * len(masks))

    def prefer(self, pictures: Pictures, masks: Tensor, num_pairs: float) -> Outcome:
        """DPO. Its loss is no sum over passes, but its gradient is: how much a pair still counts is found first."""
        scale, sums = self._settings.preference_scale, self._no_sums()
        margin = self._margin(pictures, masks, sums)
        has_pair = pictures.worth[0] > 0
        sums[0] = preference_loss(margin, scale)[has_pair].sum()
        slope = preference_slope(margin, scale) * self._sizes / len(masks)

        def losses() -> Iterator[Tensor]:
            for one in self._passes(pictures, masks):
                chances, nothing = self._chances(self._engine, one)
                worth = (pictures.worth[one.picture] * slope)[self._owner[one.places]]
                yield -(one.weight * worth * self._taken(chances, one)).sum() + nothing

        return self._descend(losses(), sums, num_pairs)

    @torch.no_grad()
    def _margin(self, pictures: Pictures, masks: Tensor, sums: Tensor) -> Tensor:
        """[prompts] by how many nats the better picture has gained more than the worse one. Adds to `sums`."""
        bounds = torch.zeros(2, len(pictures.ids), len(self._sizes), device=self._device)
        for one in self._passes(pictures, masks):
            owner, scale = self._owner[one.places], self._sizes[self._owner[one.places]] * one.weight / len(masks)
            chances, before = self._chances(self._engine, one)[0], self._chances_before(one)
            taken = self._taken(chances, one)
            for bound, likelihood in zip(bounds[:, one.picture], (taken, self._taken(before, one)), strict=True):
                bound.index_add_(0, owner, scale * likelihood)
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

    def _passes(self, pictures: Pictures, masks: Tensor) -> Iterator[_Pass]:
        """In the same order and as many on every rank."""
        prompts = self._prompts
        for (picture, ids), mask in product(enumerate(pictures.ids), masks):
            batch = prompts.with_ids(ids, mask, self._mask_id)
            hidden_sizes = torch.zeros_like(self._sizes).index_add_(0, self._owner, mask.float())
            for row in range(0, len(batch.input_ids), self._micro_rows):
                here = (prompts.rows >= row) & (prompts.rows < row + self._micro_rows)
                places = (mask & here).nonzero().squeeze(1)
                weight = 1 / hidden_sizes[self._owner[places]]
                micro = batch.rows(row, row + self._micro_rows)
                yield _Pass(micro, picture, places, ids[places] - self._image.start, weight)

    def _chances(self, model: Model, one: _Pass) -> tuple[Tensor, Tensor]:
        """[hidden, codes] log-probabilities, and the 0 of `logits_of`."""
        logits, nothing = logits_of(model, one.batch, self._image)
        return logits.log_softmax(dim=-1), nothing

    @torch.no_grad()
    def _chances_before(self, one: _Pass) -> Tensor:
        """The same of the model before the stage."""
        return self._chances(self._reference, one)[0]

    def _taken(self, chances: Tensor, one: _Pass) -> Tensor:
        """[hidden] of what was drawn."""
        return chances.gather(1, one.code[:, None]).squeeze(1)

    def _no_sums(self) -> Tensor:
        return torch.zeros(5, dtype=torch.float64, device=self._device)


def _sums(one: _Pass, taken: Tensor, kl: Tensor, loss: Tensor) -> Tensor:
    """float64 [5]: loss, KL by weight, nats, hidden tokens and their weights, of one pass."""
    parts = (loss, (one.weight * kl).sum(), -taken.sum(), loss.new_tensor(float(len(taken))), one.weight.sum())
    return torch.stack([part.detach().double() for part in parts])
