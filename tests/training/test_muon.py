"""Muon: orthogonal updates, the published scale, one update whatever the sharding.

Run: pytest tests/training/test_muon.py
"""

from __future__ import annotations

import math

import pytest
import torch
from test_named_state import EMBEDDING, Trainer, equal, furthest

from unimodel.config import EngineConfig
from unimodel.training.engine import start_process_group
from unimodel.training.layout import Piece
from unimodel.training.muon import Muon, orthogonalised

HIDDEN = "decoder.model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (32, 32), (1, 16)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_scale(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(5, *shape, generator=generator) * torch.tensor([1e-6, 0.1, 1.0, 3.0, 1e4]).view(5, 1, 1)
    left, sizes, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ orthogonalised(matrices) @ right.mT
    diagonal = inside.diagonal(dim1=1, dim2=2)
    assert torch.allclose(inside, torch.diag_embed(diagonal), atol=1e-4), "the same singular vectors"
    strong = sizes / sizes[:, :1] > 0.05
    assert diagonal[strong].min() > 0.6 and diagonal[strong].max() < 1.3


def test_zero_gradient_gives_zero_update() -> None:
    assert orthogonalised(torch.zeros(2, 4, 6)).abs().max() == 0


def test_steps_agree_with_torch() -> None:
    """`torch.optim.Muon` iterates in bf16, so to 2%; sizes and signs of the whole update are the same."""
    generator = torch.Generator().manual_seed(1)
    ours, theirs = (torch.nn.Parameter(torch.ones(24, 40)) for _ in range(2))
    groups = [{"params": [ours], "weight_decay": 0.1, "orthogonal": True}]
    optimizer = Muon(groups, momentum=0.9, lr=0.05)
    peer = torch.optim.Muon([theirs], lr=0.05, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        ours.grad = torch.randn(24, 40, generator=generator)
        theirs.grad = ours.grad.clone()
        before = ours.detach().clone()
        optimizer.step()
        peer.step()
        moved, moved_there = ours.detach() - before, theirs.detach() - before
        assert (moved - moved_there).norm() < 0.02 * moved.norm()
        theirs.data.copy_(ours.data)


def test_rows_of_every_head_are_orthogonalised_by_themselves() -> None:
    """As if each head had a matrix of its own; a weak head moves as far as a strong one."""
    gradient = torch.randn(24, 40, generator=torch.Generator().manual_seed(2)) * torch.tensor([1.0, 9.0, 1e-3])[
        :, None
    ].repeat_interleave(8, dim=0)
    whole = torch.nn.Parameter(torch.zeros(24, 40))
    heads = [torch.nn.Parameter(torch.zeros(8, 40)) for _ in range(3)]
    groups = [{"params": [whole], "weight_decay": 0.0, "orthogonal": True, "block_rows": 8}]
    together = Muon(groups, momentum=0.9, lr=0.1)
    apart = Muon([{"params": heads, "weight_decay": 0.0, "orthogonal": True}], momentum=0.9, lr=0.1)
    whole.grad = gradient
    for head, part in zip(heads, gradient.split(8), strict=True):
        head.grad = part.clone()
    together.step()
    apart.step()
    assert torch.allclose(whole, torch.cat(heads), atol=1e-6)
    sizes = torch.stack([part.norm() for part in whole.detach().split(8)])
    assert sizes.max() < 1.2 * sizes.min()


def test_a_rank_that_holds_nothing_of_a_matrix_takes_part_and_changes_nothing() -> None:
    """With more ranks than matrices some hold padding only; they must still join the gathering."""
    start_process_group(EngineConfig())
    padding = torch.nn.Parameter(torch.ones(4))
    optimizer = Muon([{"params": [padding], "weight_decay": 0.0, "orthogonal": True}], momentum=0.9, lr=0.1)
    optimizer.pieces = {padding: (Piece(torch.Size((3, 4)), 12, 0, 0),)}
    padding.grad = torch.zeros(4)
    optimizer.step()
    assert torch.equal(padding.detach(), torch.ones(4))


def test_an_update_has_the_size_of_an_adamw_update() -> None:
    """Root mean square 0.2 x learning rate (arXiv 2502.16982, eq. 4): one learning rate fits both kinds."""
    trainer = Trainer(0, kind="muon").start()
    before, rate = trainer.everything()[0][HIDDEN], 1e-3
    for group in trainer.engine.optimizer.param_groups:
        group.update(lr=rate, weight_decay=0.0)
    moved = trainer.train(1).everything()[0][HIDDEN] - before
    assert moved.square().mean().sqrt() / rate == pytest.approx(0.2, rel=0.3)


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_the_update_does_not_depend_on_the_zero_stage(zero: int) -> None:
    plain, sharded = (Trainer(z, kind="muon").start().train(3).everything() for z in (0, zero))
    for there, here in zip(plain, sharded, strict=True):
        assert furthest(there, here) < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_hidden_matrices_have_one_moment_and_the_rest_two(zero: int, precision: str) -> None:
    _, moments, _ = Trainer(zero, precision, kind="muon").start().train(1).everything()
    keys = {name: {key for key in moments if key.startswith(name)} for name in (HIDDEN, EMBEDDING)}
    assert keys[HIDDEN] == {f"{HIDDEN}.exp_avg"}
    assert keys[EMBEDDING] == {f"{EMBEDDING}.exp_avg", f"{EMBEDDING}.exp_avg_sq"}
    assert all(torch.isfinite(value).all() and value.abs().max() > 0 for value in moments.values())


def test_state_carried_from_muon_to_adamw_leaves_matrices_empty() -> None:
    """A first moment over an empty second one would be a leap of learning rate / epsilon."""
    donor = Trainer(0, kind="muon").start().train(2)
    weights = donor.everything()[0]
    trainer = Trainer(2, weights=weights).start()
    missing = trainer.restore(donor.stored())
    assert f"{HIDDEN}.exp_avg_sq" in missing and not any(name.startswith(EMBEDDING) for name in missing)
    now = trainer.everything()[1]
    assert now[f"{HIDDEN}.exp_avg"].abs().max() == 0 < now[f"{EMBEDDING}.exp_avg"].abs().max()
    trainer.train(1)
    after = trainer.everything()[0]
    moved = after[HIDDEN] - weights[HIDDEN]
    assert moved.abs().max() < 10 * trainer.stage.optimizer.learning_rate and math.isfinite(float(moved.sum()))
    assert not equal(after, weights)
