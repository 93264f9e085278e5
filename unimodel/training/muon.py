"""Muon: momentum made orthogonal for hidden matrices, AdamW for embeddings, norms and biases.

An orthogonal update moves every direction of a matrix equally far, also those that few tokens ask for (a rare code, a
position); Adam follows the few strong ones (docs/experiments.md has both on the same task).

- K. Jordan et al., "Muon: an optimizer for hidden layers", 2024: the update, and the coefficients of its Newton-Schulz
  iteration
- Liu et al., arXiv 2502.16982: weight decay and the scale 0.2 sqrt(max(rows, columns)) (eq. 4), with which AdamW's
  learning rate fits matrices too; gathering sharded momentum to orthogonalise it (section 2.3)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unimodel.training.layout import Piece

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration; steepest at 0, so that weak directions grow fastest."""
ITERATIONS = 5
ELEMENTS_AT_ONCE = 1 << 24
"""Most elements of matrices that are gathered and orthogonalised together."""


class Muon(torch.optim.AdamW):
    """One optimizer to DeepSpeed. Groups with `orthogonal: True` hold hidden matrices (or flat shards of several, whose
    `pieces` are set once the engine has laid them out) and use `momentum`; all others are AdamW's. Where a group has
    `block_rows`, every so many rows of a matrix are orthogonalised by themselves: those of one attention head."""

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float, **adamw: Any) -> None:
        super().__init__(groups, **adamw)
        for group in self.param_groups:
            group["momentum"] = momentum
            group.setdefault("block_rows", 0)
        self.pieces: Mapping[Tensor, Sequence[Piece]] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of everything that has a gradient. Collective where the masters are shards."""
        assert closure is None, "the engine has run backward"
        groups = self.param_groups
        for group in groups:
            if group["orthogonal"]:
                self._step_matrices(group)
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            super().step()
        finally:
            self.param_groups = groups

    def _step_matrices(self, group: dict[str, Any]) -> None:
        blended: dict[Tensor, Tensor] = {}
        for master in group["params"]:
            if master.grad is not None:
                state = self.state[master]
                if "exp_avg" not in state:
                    state["exp_avg"] = torch.zeros_like(master)
                momentum = state["exp_avg"]
                momentum.lerp_(master.grad, 1 - group["momentum"])
                blended[master] = master.grad.lerp(momentum, group["momentum"]).flatten()  # Nesterov
                master.mul_(1 - group["lr"] * group["weight_decay"])
        for shape, batch in self._batches(list(blended)):
            # Where the ranks can sum them and work is fast, also when the masters are kept elsewhere.
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            matrices = torch.zeros(len(batch), shape.numel(), device=device)
            for matrix, (master, piece) in zip(matrices, batch, strict=True):
                matrix[piece.start : piece.start + piece.numel] = blended[master][piece.offset :][: piece.numel]
            if self.pieces:
                dist.all_reduce(matrices)  # every element is held by one rank and 0 on all others
            mine = [i for i, (_, piece) in enumerate(batch) if piece.numel]
            block = (group["block_rows"] or shape[0], shape[1])
            blocks = matrices[mine].view(len(mine) * (shape[0] // block[0]), *block)
            updates = orthogonalised(blocks).view(len(mine), shape.numel())
            step = -group["lr"] * 0.2 * math.sqrt(max(block))
            for update, i in zip(updates, mine, strict=True):
                master, piece = batch[i]
                here = update[piece.start : piece.start + piece.numel]
                master.view(-1)[piece.offset : piece.offset + piece.numel].add_(here.to(master.device), alpha=step)

    def _batches(self, masters: list[Tensor]) -> Iterator[tuple[torch.Size, list[tuple[Tensor, Piece]]]]:
        """All pieces of `masters` by shape, few enough at a time; the same on all ranks."""
        by_shape: dict[torch.Size, list[tuple[Tensor, Piece]]] = {}
        for master in masters:
            for piece in self.pieces.get(master, (Piece(master.shape, 0, 0, master.numel()),)):
                by_shape.setdefault(piece.shape, []).append((master, piece))
        for shape, found in by_shape.items():
            at_once = max(1, ELEMENTS_AT_ONCE // shape.numel())
            for first in range(0, len(found), at_once):
                yield shape, found[first : first + at_once]


def orthogonalised(matrices: Tensor) -> Tensor:
    """[n, rows, columns] -> U S' V^T of every U S V^T, with S' between about 0.7 and 1.2.

    Five Newton-Schulz iterations, in bf16 on a GPU. A matrix of zeros stays zero.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.to(torch.bfloat16) if x.is_cuda else x
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype).contiguous()
