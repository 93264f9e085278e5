"""The optimizer's part of a step: which parameters it holds in which groups, and what an update costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from unimodel.backbone.model import Backbone
from unimodel.config import BackboneConfig, StageConfig
from unimodel.planning.trace import planned_decoder
from unimodel.training.muon import ITERATIONS
from unimodel.training.optimizer import freeze, parameter_groups
from unimodel.vocabulary import Vocabulary

UPDATE_BYTES = 4 * (20 + 3 + 3)
"""Read and written per fp32 element: by AdamW's operations one after another, by clipping, by the moving average."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of a backbone in a stage, in elements."""

    frozen: int
    orthogonal: int
    """Hidden matrices under Muon, which have one moment."""
    adam: int
    largest_tensor: int
    largest_group: int
    """Of those that train and are AdamW's: its temporaries have its size."""
    layer: int
    num_tensors: int
    muon_flops: int
    """Of orthogonalising every hidden matrix once."""

    @property
    def trained(self) -> int:
        return self.orthogonal + self.adam

    @property
    def total(self) -> int:
        return self.trained + self.frozen

    @property
    def moments(self) -> int:
        return self.orthogonal + 2 * self.adam


def meta_backbone(backbone: BackboneConfig, vocabulary: Vocabulary, stage: StageConfig) -> Backbone:
    """The backbone as it would be built and frozen for a stage, on the meta device: names and shapes alone.

    Raises ValueError as `freeze` does.
    """
    with torch.device("meta"):
        model = Backbone(planned_decoder(backbone, vocabulary, "fp32", checkpointing=False))
    freeze(model, stage.freeze)
    return model


def count_parameters(model: Backbone, stage: StageConfig) -> Parameters:
    """Of a backbone on any device."""
    groups = parameter_groups(model.named_parameters(), stage.optimizer.kind)
    matrices, adam = [*groups.heads, *groups.hidden], [*groups.decayed, *groups.rest]
    return Parameters(
        frozen=_elements(p for p in model.parameters() if not p.requires_grad),
        orthogonal=_elements(matrices),
        adam=_elements(adam),
        largest_tensor=max((p.numel() for p in adam), default=0),
        largest_group=max(_elements(groups.decayed), _elements(groups.rest)),
        layer=_elements(model.decoder.model.layers[0].parameters()),
        num_tensors=sum(1 for _ in model.parameters()),
        muon_flops=sum(_orthogonalising_flops(p.shape) for p in matrices),
    )


def _elements(parameters: Iterable[torch.nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _orthogonalising_flops(shape: torch.Size) -> int:
    """Of Newton-Schulz: three products an iteration, on the smaller side."""
    small, large = sorted(shape)
    return ITERATIONS * (4 * small * small * large + 2 * small**3)


def micro_row_choices(rows: int, data_ranks: int) -> Iterator[int]:
    """Rows of a micro-batch that deal `rows` evenly: all divisors of a rank's share. None when there is no such."""
    if rows % data_ranks == 0:
        share = rows // data_ranks
        yield from (number for number in range(1, math.isqrt(share) + 1) if share % number == 0)
        yield from (
            share // number
            for number in range(math.isqrt(share), 0, -1)
            if share % number == 0 and share // number > math.isqrt(share)
        )
