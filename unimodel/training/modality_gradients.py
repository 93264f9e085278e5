"""How strongly each modality's loss pulls, to see which one blew up.

Measured where the losses meet the decoder: the gradient with respect to the hidden states that enter the head. A place
has one target, hence the loss of one modality, so the rows of that gradient belong to one modality each, and its norm
over a modality's rows is exactly that of the modality's own loss. The backward pass computes this tensor anyway: no
second one is needed, and nothing that is trained changes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unimodel.backbone.model import Backbone
from unimodel.batch import PackedBatch
from unimodel.layout import NO_TARGET
from unimodel.vocabulary import Modality, Vocabulary


class ModalityGradients:
    """Watches the backward passes of every `every_steps`-th step; of none with None."""

    def __init__(self, backbone: Backbone, vocabulary: Vocabulary, every_steps: int | None) -> None:
        self._vocabulary, self._every_steps = vocabulary, every_steps
        self._sums: Tensor | None = None
        self._targets: Tensor | None = None
        backbone.register_forward_pre_hook(self._see_batch)
        backbone.decoder.lm_head.register_forward_pre_hook(self._see_hidden)

    def begin(self, step: int, device: torch.device) -> None:
        """Of the run, counted from 1."""
        due = self._every_steps is not None and step % self._every_steps == 0
        self._sums = torch.zeros(2, len(Modality), dtype=torch.float64, device=device) if due else None

    def norms(self) -> dict[str, float | None]:
        """`gradient_norm/<modality>` of those that the global batch has targets of, None where it is not finite;
        nothing in a step that is not due. Collective."""
        if self._sums is None:
            return {}
        dist.all_reduce(self._sums)
        squares, targets = self._sums.tolist()
        scale = dist.get_world_size()  # the loss of the step is multiplied by it, since ZeRO takes a mean over ranks
        norms = {m.label: math.sqrt(squares[m]) / scale for m in Modality if targets[m] > 0}
        return {f"gradient_norm/{name}": norm if math.isfinite(norm) else None for name, norm in norms.items()}

    def _see_batch(self, module: Any, inputs: tuple[PackedBatch]) -> None:
        target = module.sequence.part(inputs[0]).target
        self._targets = target[target != NO_TARGET] if self._sums is not None else None

    def _see_hidden(self, module: Any, inputs: tuple[Tensor]) -> None:
        """[targets, dim] that enter the head, in the order of the targets."""
        hidden, targets = inputs[0], self._targets
        if targets is None or len(targets) == 0 or not hidden.requires_grad:
            return
        hidden.register_hook(lambda gradient: self._add(gradient, targets))

    def _add(self, gradient: Tensor, targets: Tensor) -> None:
        assert self._sums is not None
        squares = gradient.double().square().sum(dim=1)
        for modality in Modality:
            ids = self._vocabulary.range_of(modality)
            here = (targets >= ids.start) & (targets < ids.stop)
            self._sums[:, modality] += torch.stack([torch.where(here, squares, 0.0).sum(), here.sum()])
