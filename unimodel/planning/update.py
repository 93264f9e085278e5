"""The optimizer's part of a step: which parameters it holds in which groups, and what an update costs."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from unimodel.backbone.model import Backbone
from unimodel.config import BackboneConfig, StageConfig
from unimodel.planning.trace import planned_decoder
from unimodel.training.muon import ITERATIONS
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
    """The backbone as it would be built and frozen for a stage, on the meta device: names and shapes alone."""
    with torch.device("meta"):
        model = Backbone(planned_decoder(backbone, vocabulary, "fp32", checkpointing=False))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(fnmatch.fnmatch(name, pattern) for pattern in stage.freeze))
    return model


def count_parameters(model: Backbone, stage: StageConfig) -> Parameters:
    """Of a backbone on any device."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    groups = {"orthogonal": 0, "decayed": 0, "rest": 0}
    muon_flops = largest = 0
    for name, shape in shapes.items():
        if name in frozen:
            continue
        matrix, outer = len(shape) >= 2, "embed" in name or "lm_head" in name
        if stage.optimizer.kind == "muon" and matrix and not outer:
            groups["orthogonal"] += shape.numel()
            muon_flops += _orthogonalising_flops(shape)
        else:
            groups["decayed" if matrix and "embed" not in name else "rest"] += shape.numel()
            largest = max(largest, shape.numel())
    layer = sum(shape.numel() for name, shape in shapes.items() if ".layers.0." in name)
    adam = groups["decayed"] + groups["rest"]
    return Parameters(
        frozen=sum(shapes[name].numel() for name in frozen),
        orthogonal=groups["orthogonal"],
        adam=adam,
        largest_tensor=largest,
        largest_group=max(groups["decayed"], groups["rest"]),
        layer=layer,
        num_tensors=len(shapes),
        muon_flops=muon_flops,
    )


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
