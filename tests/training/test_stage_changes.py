"""A stage that freezes, unfreezes and adds parameters keeps every untouched weight and the state of those that go on.

Run: pytest tests/training/test_stage_changes.py
"""

from __future__ import annotations

import pytest
import torch
from test_named_state import EMBEDDING, Trainer

from unimodel.training.named_state import MOMENTS
from unimodel.training.stored_state import WEIGHT

ADDED = ".layers.2."


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_freeze_add_and_unfreeze(zero: int, precision: str) -> None:
    """C5: the embedding is frozen while a layer is added, then trains again; each on another ZeRO stage."""
    first = Trainer(zero, precision).start().train(3).stored()
    names = first.names(WEIGHT)

    second = Trainer((zero + 1) % 4, precision, ("*embed_tokens*",), first.weights(), num_layers=3).start(step=3)
    missing = second.restore(first)
    added = [name for name, _ in second.backbone.named_parameters() if ADDED in name]
    assert sorted(missing) == sorted(f"{name}.{kind}" for name in added for kind in MOMENTS) and len(added) > 5
    stored = second.stored()
    for name in names:
        assert torch.equal(stored.whole(WEIGHT, name), first.whole(WEIGHT, name)), name
    for kind in MOMENTS:
        assert EMBEDDING not in stored.names(kind)
        for name in set(names) - {EMBEDDING}:
            assert torch.equal(stored.whole(kind, name), first.whole(kind, name)), (kind, name)
        assert all(not stored.whole(kind, name).any() for name in added)

    trained = second.train(2).stored()
    assert torch.equal(trained.whole(WEIGHT, EMBEDDING), first.whole(WEIGHT, EMBEDDING)), "frozen, to the last bit"
    moved = [
        name for name in (*added, *names) if not torch.equal(trained.whole(WEIGHT, name), stored.whole(WEIGHT, name))
    ]
    assert {name for name in (*added, *names) if "norm" not in name} - set(moved) == {EMBEDDING}

    third = Trainer((zero + 2) % 4, precision, (), trained.weights(), num_layers=3).start(step=5)
    assert sorted(third.restore(trained)) == [f"{EMBEDDING}.{kind}" for kind in MOMENTS]
    again = third.stored()
    for name in trained.names(WEIGHT):
        assert torch.equal(again.whole(WEIGHT, name), trained.whole(WEIGHT, name)), name
    assert not torch.equal(third.train(1).stored().whole(WEIGHT, EMBEDDING), first.whole(WEIGHT, EMBEDDING))
