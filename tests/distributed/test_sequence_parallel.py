"""Ranks that share rows, each with its stretch of the length, train like one that has all of it.

Run: pytest tests/distributed/test_sequence_parallel.py
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import shared_rows
import torch
from parallel_runs import launch_helper
from shared_rows import CASES, STEPS, train_decoder
from toy_sequences import tiny_backbone

from unimodel.backbone.sequence_parallel import build_sequence_group, swap_in_attention
from unimodel.config import EngineConfig
from unimodel.training.engine import start_process_group
from unimodel.training.stored_state import StoredState


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Ranks that share the rows -> what they have learnt."""
    folders = {ranks: tmp_path_factory.mktemp(f"shared-by-{ranks}") for ranks in (1, 2)}
    launch_helper(2, shared_rows.__file__, str(folders[2]))
    start_process_group(EngineConfig())
    for name, zero in CASES:
        train_decoder(folders[1], name, zero)
    return folders


@pytest.mark.parametrize(("name", "zero"), CASES)
def test_two_ranks_share_rows_as_one_has_them(trained: dict[int, Path], name: str, zero: int) -> None:
    """Losses to 1e-5, gradient norms and all weights to 1e-4: packed documents, blocks, noisy copies, key heads that do
    not divide, and a second rank that in every third step has nothing to answer. Rounding differs in the last bits."""
    one, two = (json.loads((trained[ranks] / f"{name}-{zero}" / "losses.json").read_text()) for ranks in (1, 2))
    assert len(one) == len(two) == STEPS
    for line, there in zip(one, two, strict=True):
        assert there["loss"] == pytest.approx(line["loss"], rel=1e-5)
        assert there["nats"] == pytest.approx(line["nats"], rel=1e-5)
        assert there["tokens"] == line["tokens"], "each is counted once"
        if line["norm"] is not None:
            assert there["norm"] == pytest.approx(line["norm"], rel=1e-4)
    of_a_kind = one[::3]  # batches with answers in the first half of their rows alone
    assert of_a_kind[-1]["loss"] < of_a_kind[0]["loss"], "it trains, so that a wrong gradient would show"
    states = [StoredState(trained[ranks] / f"{name}-{zero}") for ranks in (1, 2)]
    for kind in ("weight", "exp_avg", "exp_avg_sq"):
        assert set(states[0].names(kind)) == set(states[1].names(kind))
        for parameter in states[0].names(kind):
            whole, shared = (state.whole(kind, parameter) for state in states)
            assert torch.allclose(shared, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max())), (kind, parameter)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sequence_parallel \(4\) must divide the attention heads \(2\)"):
        swap_in_attention(tiny_backbone().decoder, 4)


def test_layers_that_mix_places_otherwise_are_refused() -> None:
    decoder = tiny_backbone().decoder
    decoder.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ValueError, match="this decoder has layers of linear_attention: set it to 1"):
        swap_in_attention(decoder, 2)


def test_ranks_that_do_not_divide_are_refused() -> None:
    start_process_group(EngineConfig())
    with pytest.raises(ValueError, match=r"sequence_parallel \(2\) must divide the number of processes \(1\)"):
        build_sequence_group(2, shared_rows.LIMIT)
