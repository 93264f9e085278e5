"""Which parameters train, and in which groups of the optimizer."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from unimodel.backbone.model import Backbone
from unimodel.config import StageConfig
from unimodel.training.muon import Muon

BY_HEAD = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
"""Matrices whose rows are those of one attention head after another."""


@dataclass(frozen=True, slots=True)
class ParameterGroups:
    """Those of a stage that train."""

    heads: list[nn.Parameter] = field(default_factory=list)
    """Muon's, attention head by head."""
    hidden: list[nn.Parameter] = field(default_factory=list)
    """Muon's."""
    decayed: list[nn.Parameter] = field(default_factory=list)
    rest: list[nn.Parameter] = field(default_factory=list)
    """Embeddings, norms and biases: weight decay leaves them alone."""


def freeze(model: nn.Module, patterns: tuple[str, ...]) -> None:
    """Stops the gradient of parameters whose name matches a shell pattern.

    Raises ValueError when a pattern matches nothing or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"freeze: '{pattern}' matches no parameter; names look like {', '.join(names[:3])}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(fnmatch.fnmatch(name, pattern) for pattern in patterns))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("freeze: the patterns freeze every parameter, nothing is left to train")


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], kind: str) -> ParameterGroups:
    """`kind` of optimizer: adamw, or muon for the hidden matrices."""
    groups = ParameterGroups()
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        outer = "embed" in name or "lm_head" in name
        if kind == "muon" and parameter.ndim == 2 and not outer:
            (groups.heads if name.endswith(BY_HEAD) else groups.hidden).append(parameter)
        else:
            (groups.decayed if parameter.ndim >= 2 and "embed" not in name else groups.rest).append(parameter)
    return groups


def build_optimizer(backbone: Backbone, stage: StageConfig) -> torch.optim.AdamW:
    """AdamW, or Muon for the hidden matrices."""
    settings = stage.optimizer
    split = parameter_groups(backbone.named_parameters(), settings.kind)
    head_rows, decay = backbone.decoder.config.head_dim, settings.weight_decay
    groups = [
        {"params": split.heads, "weight_decay": decay, "orthogonal": True, "block_rows": head_rows},
        {"params": split.hidden, "weight_decay": decay, "orthogonal": True},
        {"params": split.decayed, "weight_decay": decay, "orthogonal": False},
        {"params": split.rest, "weight_decay": 0.0, "orthogonal": False},
    ]
    groups = [group for group in groups if group["params"]]
    adamw = {"lr": settings.learning_rate, "betas": (settings.beta1, settings.beta2), "eps": settings.epsilon}
    if settings.kind == "muon":
        return Muon(groups, momentum=settings.momentum, **adamw)
    return torch.optim.AdamW(groups, **adamw)
