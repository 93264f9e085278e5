"""The one loss: `sum_o coef_o * (sum_i weight_i * CE_i) / N_o`, N_o summed over the whole global batch.

The division happens once, with N_o summed over all ranks and accumulation steps, so the result does not depend on
how rows are dealt. The softmax runs over the target's own modality and therefore never includes MASK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unimodel.batch import PackedBatch
from unimodel.config_objectives import MaskedConfig, ObjectiveConfig
from unimodel.layout import NO_TARGET
from unimodel.vocabulary import Modality, Vocabulary


@dataclass(frozen=True, slots=True)
class LossSums:
    """Unnormalised sums over one micro-batch. `by_objective` [objectives] carries the gradient."""

    by_objective: Tensor
    modality_nats: Tensor
    """[modalities] unweighted cross-entropy sums, for logging."""
    modality_targets: Tensor
    """[modalities] number of targets."""
    modality_correct: Tensor
    """[modalities] number of targets whose most likely id is right."""


def normalisers(batch: PackedBatch, objectives: Sequence[ObjectiveConfig]) -> Tensor:
    """float64 [objectives]: what `batch` adds to every N_o.

    A likelihood bound is a mean over its maskable tokens, each counted once. Every other objective is a weighted mean:
    counted once, a heavy token in a batch with few targets would outweigh everything else in that step.
    """
    index = torch.arange(len(objectives), device=batch.objective.device)
    counted = (batch.objective.flatten()[:, None] == index).to(torch.float64)
    bound = torch.tensor([is_bound(objective) for objective in objectives], device=index.device)
    return torch.where(bound, counted.sum(0), (counted * batch.weight.flatten()[:, None]).sum(0))


def is_bound(objective: ObjectiveConfig) -> bool:
    """Whether the objective's loss bounds -log p, and so must not be reweighted."""
    return isinstance(objective, MaskedConfig) and objective.weight == "elbo"


def loss_sums(logits: Tensor, batch: PackedBatch, vocabulary: Vocabulary, num_objectives: int) -> LossSums:
    """`logits` [targets, vocabulary] at the places of `batch` that have a target, in row-major order."""
    supervised = batch.target != NO_TARGET
    target, weight, objective = batch.target[supervised], batch.weight[supervised], batch.objective[supervised]
    by_objective = logits.new_zeros(num_objectives, dtype=torch.float32)
    if len(target) == 0:  # a rank whose samples were all left out still takes part in backward
        by_objective = by_objective + logits.float().sum() * 0.0
    per_modality = torch.zeros(3, len(Modality), dtype=torch.float64, device=logits.device)
    for modality in Modality:
        ids = vocabulary.range_of(modality)
        here = ((target >= ids.start) & (target < ids.stop)).nonzero().squeeze(1)
        if modality is Modality.SPECIAL or len(here) == 0:
            continue
        restricted = logits[here, ids.start : ids.stop].float()
        answer = target[here] - ids.start
        nats = F.cross_entropy(restricted, answer, reduction="none")
        by_objective = by_objective.index_add(0, objective[here], weight[here] * nats)
        per_modality[:, modality] = torch.stack(
            [
                nats.detach().sum(dtype=torch.float64),
                torch.tensor(float(len(here)), dtype=torch.float64, device=logits.device),
                (restricted.argmax(dim=-1) == answer).sum(dtype=torch.float64),
            ]
        )
    return LossSums(by_objective, per_modality[0], per_modality[1], per_modality[2])


def normalised_loss(by_objective: Tensor, normaliser: Tensor, coefficients: Sequence[float]) -> Tensor:
    """The scalar loss. An objective that the global batch lacks (N_o = 0) contributes exactly 0 and changes nothing."""
    coefficient = torch.tensor(coefficients, dtype=torch.float32, device=by_objective.device)
    scale = torch.where(normaliser > 0, coefficient / normaliser.to(torch.float32), 0.0)
    return (by_objective * scale).sum()
