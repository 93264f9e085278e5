"""One optimizer step: all micro-batches of a global batch, one normaliser, one update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from unimodel.batch import PackedBatch
from unimodel.config import StageConfig
from unimodel.objectives.loss import loss_sums, normalised_loss, normalisers
from unimodel.vocabulary import Modality, Vocabulary


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step measured, equal on all ranks."""

    loss: float
    objective_losses: dict[str, float]
    """Mean weighted loss of every objective present in the batch."""
    modality_nats: dict[str, float]
    """Mean cross entropy per target, nats."""
    modality_accuracy: dict[str, float]
    tokens: int
    """Tokens of the global batch that are not padding."""
    padding_fraction: float
    gradient_norm: float | None
    """None where the engine does not report one (ZeRO 0)."""
    bad_samples: int
    """Samples that the ranks left out of the batch."""
    stop_requested: bool
    """Some rank was asked to stop."""


def train_step(
    engine: Any,
    batch: PackedBatch,
    stage: StageConfig,
    vocabulary: Vocabulary,
    *,
    bad_samples: int = 0,
    stop_requested: bool = False,
) -> StepReport:
    """Runs this rank's `batch` [rows per rank, length] through forward, backward and update.

    Raises FloatingPointError, before any weight is touched, when the loss is not finite.
    """
    num_objectives, num_ranks = len(stage.objectives), dist.get_world_size()
    counts = [batch.num_tokens, batch.target.numel(), bad_samples, float(stop_requested)]
    header = torch.tensor(counts, dtype=torch.float64)
    objectives = list(stage.objectives.values())
    shared = torch.cat([normalisers(batch, objectives), header.to(batch.target.device)])
    dist.all_reduce(shared)
    tokens, places, all_bad_samples, stops = shared[num_objectives:].tolist()
    normaliser = shared[:num_objectives]

    coefficients = [objective.coefficient for objective in objectives]
    rows = batch.target.shape[0] // stage.batch.accumulation
    totals = torch.zeros(num_objectives + 3 * len(Modality), dtype=torch.float64, device=batch.target.device)
    for start in range(0, batch.target.shape[0], rows):
        micro = batch.rows(start, start + rows)
        sums = loss_sums(engine(micro), micro, vocabulary, num_objectives)
        loss = normalised_loss(sums.by_objective, normaliser, coefficients)
        totals += torch.cat(
            [sums.by_objective.detach().double(), sums.modality_nats, sums.modality_targets, sums.modality_correct]
        )
        _require_finite(loss, stage)
        # Normalisers already span ranks and accumulation; ZeRO averages over ranks, so undo that.
        engine.backward(loss * num_ranks, scale_wrt_gas=False)
        engine.step()

    dist.all_reduce(totals)
    sums_by_objective, nats, targets, correct = totals.split([num_objectives, *[len(Modality)] * 3])
    means = {
        name: float(sums_by_objective[i] / normaliser[i])
        for i, name in enumerate(stage.objectives)
        if normaliser[i] > 0
    }
    present = [modality for modality in Modality if targets[modality] > 0]
    norm = engine.get_global_grad_norm()
    return StepReport(
        loss=math.fsum(stage.objectives[name].coefficient * mean for name, mean in means.items()),
        objective_losses=means,
        modality_nats={m.label: float(nats[m] / targets[m]) for m in present},
        modality_accuracy={m.label: float(correct[m] / targets[m]) for m in present},
        tokens=int(tokens),
        padding_fraction=1 - tokens / places,
        gradient_norm=None if norm is None else float(norm),
        bad_samples=int(all_bad_samples),
        stop_requested=stops > 0,
    )


def _require_finite(loss: torch.Tensor, stage: StageConfig) -> None:
    """All ranks stop together: one that went on alone would hang in its next collective."""
    bad = torch.tensor(float(not torch.isfinite(loss)), device=loss.device)
    dist.all_reduce(bad)
    if bad.item():
        raise FloatingPointError(
            "the loss is not finite: lower optimizer.learning_rate "
            f"(now {stage.optimizer.learning_rate}) or optimizer.gradient_clip (now {stage.optimizer.gradient_clip}), "
            "then run the same command again to go on from the last checkpoint"
        )
