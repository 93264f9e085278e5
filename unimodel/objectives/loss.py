"""The one loss: `sum_o coef_o * (sum_i weight_i * CE_i) / N_o`, N_o counted over the whole global batch.

The division happens once, with counts summed over all ranks and accumulation steps, so the result does not depend on
how rows are dealt. The softmax runs over the target's own modality and therefore never includes MASK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unimodel.batch import NO_TARGET, PackedBatch
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


def objective_counts(batch: PackedBatch, num_objectives: int) -> Tensor:
    """float64 [objectives]: how many tokens of `batch` each objective's normaliser counts."""
    counted = batch.objective[batch.objective >= 0]
    return torch.bincount(counted, minlength=num_objectives).to(torch.float64)


def loss_sums(logits: Tensor, batch: PackedBatch, vocabulary: Vocabulary, num_objectives: int) -> LossSums:
    """`logits` [targets, vocabulary] at the places of `batch` that have a target, in row-major order."""
    supervised = batch.target != NO_TARGET
    target, weight, objective = batch.target[supervised], batch.weight[supervised], batch.objective[supervised]
    by_objective = logits.new_zeros(num_objectives, dtype=torch.float32)
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


def normalised_loss(by_objective: Tensor, counts: Tensor, coefficients: Sequence[float]) -> Tensor:
    """The scalar loss. An objective that the global batch lacks (count 0) contributes exactly 0 and changes nothing."""
    coefficient = torch.tensor(coefficients, dtype=torch.float32, device=by_objective.device)
    scale = torch.where(counts > 0, coefficient / counts.clamp(min=1).to(torch.float32), 0.0)
    return (by_objective * scale).sum()
