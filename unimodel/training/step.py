"""One optimizer step: all micro-batches of a global batch, one normaliser, one update."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from unimodel.batch import PackedBatch
from unimodel.config import StageConfig
from unimodel.objectives.loss import loss_sums, normalised_loss, normalisers
from unimodel.training.device_memory import PASSES, UPDATE, memory_for
from unimodel.vocabulary import Modality, Vocabulary


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step measured, equal on all ranks."""

    loss: float
    """Not finite where some rank's was not."""
    skipped: bool
    """No weight was touched: the loss or the gradient was not finite, or the loss above its limit."""
    objective_losses: dict[str, float]
    """Mean weighted loss of every objective present in the batch."""
    modality_nats: dict[str, float]
    """Mean cross entropy per target, nats."""
    modality_accuracy: dict[str, float]
    targets: int
    """Places of the global batch that had something to answer."""
    tokens: int
    """Tokens of the global batch that are not padding."""
    padding_fraction: float
    gradient_norm: float | None
    """None where the engine does not report one (ZeRO 0), or it is not finite."""
    told: tuple[float, ...]
    """Sums over the ranks of what each told the others."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What became of a step: its report, updates of the optimizer, figures that stand beside its metrics, and whether
    it ends the stage."""

    report: StepReport
    updates: int
    figures: dict[str, float] = field(default_factory=dict)
    ends_stage: bool = False


@memory_for(PASSES)
def train_step(
    engine: Any,
    batch: PackedBatch,
    stage: StageConfig,
    vocabulary: Vocabulary,
    tell: tuple[float, ...] = (),
    *,
    loss_limit: float = math.inf,
) -> StepReport:
    """Runs this rank's `batch` [rows per rank, length] through forward, backward and update; a loss that is not finite
    or above `loss_limit` is not learnt from. What the rank has to `tell` crosses with the counts that ranks share
    anyway. Ranks that share rows each count their own places."""
    num_objectives, num_ranks, sequence = len(stage.objectives), dist.get_world_size(), engine.module.sequence
    own = sequence.part(batch)
    header = torch.tensor([own.num_tokens, own.target.numel(), *tell], dtype=torch.float64)
    objectives = list(stage.objectives.values())
    shared = torch.cat([normalisers(own, objectives), header.to(batch.target.device)])
    dist.all_reduce(shared)
    tokens, places, *told = shared[num_objectives:].tolist()
    normaliser = shared[:num_objectives]

    coefficients = [objective.coefficient for objective in objectives]
    rows = batch.target.shape[0] // stage.batch.accumulation
    totals = torch.zeros(num_objectives + 3 * len(Modality), dtype=torch.float64, device=batch.target.device)
    means, mean, skipped = {}, math.nan, False
    for start in range(0, batch.target.shape[0], rows):
        micro = batch.rows(start, start + rows)
        sums = loss_sums(engine(micro), sequence.part(micro), vocabulary, num_objectives)
        loss = normalised_loss(sums.by_objective, normaliser, coefficients)
        totals += torch.cat(
            [sums.by_objective.detach().double(), sums.modality_nats, sums.modality_targets, sums.modality_correct]
        )
        if start + rows == batch.target.shape[0]:
            dist.all_reduce(totals)
            means = _means(totals[:num_objectives], normaliser, stage)
            mean = math.fsum(stage.objectives[name].coefficient * value for name, value in means.items())
            if not (math.isfinite(mean) and mean <= loss_limit):
                loss = loss * math.nan  # the engine drops, on all ranks, an update whose gradient is not finite
        # Normalisers already span ranks and accumulation; ZeRO averages over ranks, so undo that.
        engine.backward(loss * num_ranks, scale_wrt_gas=False)
        if engine.is_gradient_accumulation_boundary():
            skipped = update_weights(engine)
        else:
            engine.step()

    norm = engine.get_global_grad_norm()
    _, nats, targets, correct = totals.split([num_objectives, *[len(Modality)] * 3])
    present = [modality for modality in Modality if targets[modality] > 0]
    return StepReport(
        loss=mean,
        skipped=skipped,
        objective_losses=means,
        modality_nats={m.label: float(nats[m] / targets[m]) for m in present},
        modality_accuracy={m.label: float(correct[m] / targets[m]) for m in present},
        targets=int(targets.sum()),
        tokens=int(tokens),
        padding_fraction=1 - tokens / places,
        gradient_norm=None if norm is None or not math.isfinite(norm) else float(norm),
        told=tuple(told),
    )


def _means(sums: torch.Tensor, normaliser: torch.Tensor, stage: StageConfig) -> dict[str, float]:
    """Mean weighted loss of every objective that the global batch has."""
    return {name: float(sums[i] / normaliser[i]) for i, name in enumerate(stage.objectives) if normaliser[i] > 0}


@memory_for(UPDATE)
def update_weights(engine: Any) -> bool:
    """The optimizer's step; whether it was left out because some gradient is not finite.

    Without ZeRO, in fp32, such a gradient would poison the weights for good; everywhere else the engine looks itself.
    The ranks' gradients are summed by now, so all find the same.
    """
    optimizer = engine.optimizer
    if hasattr(optimizer, "overflow"):
        engine.step()
        return optimizer.overflow
    norms = [p.grad.norm() for p in engine.module.parameters() if p.grad is not None]
    if bool(torch.stack(norms).isfinite().all()):
        engine.step()
        return False
    groups, optimizer.param_groups = optimizer.param_groups, []
    try:
        engine.step()  # clears the gradients and counts
    finally:
        optimizer.param_groups = groups
    return True
