"""Fast weights in chunks are fast weights one token at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unimodel.memory.delta_rule import CHUNK_TOKENS, scan, scan_with_momentum, steady_rate

ROWS, HEADS, DIM = 3, 2, 4
LENGTHS = st.integers(1, 3 * CHUNK_TOKENS)
LOGS = st.floats(-8.0, 0.0)

Tokens = dict[str, Tensor]


def tokens(length: int, seed: int, decay: float, momentum: float, clean_fraction: float, dtype: torch.dtype) -> Tokens:
    """Keys of length 1, rates from 0 to 1, and gates between nothing and the given logarithms."""
    rng = torch.Generator().manual_seed(seed)
    shape = (ROWS, length, HEADS)
    drawn = {
        "key": nn.functional.normalize(torch.randn(*shape, DIM, generator=rng), dim=-1),
        "value": torch.randn(*shape, DIM, generator=rng),
        "decay": decay * torch.rand(shape, generator=rng),
        "rate": torch.rand(shape, generator=rng),
        "momentum": momentum - torch.rand(shape, generator=rng),
        "matrix": torch.randn(ROWS, HEADS, DIM, DIM, generator=rng),
        "surprise": torch.randn(ROWS, HEADS, DIM, DIM, generator=rng),
    }
    clean = torch.rand(ROWS, length, generator=rng) < clean_fraction
    return {name: part.to(dtype) for name, part in drawn.items()} | {"clean": clean}


def in_chunks(given: Tokens) -> tuple[Tensor, ...]:
    """As the gated delta rule is scanned, without what is not clean."""
    clean = given["clean"][..., None].to(given["rate"].dtype)
    return (scan(given["key"], given["value"], given["decay"] * clean, given["rate"] * clean, given["matrix"]),)


def in_chunks_with_momentum(given: Tokens) -> tuple[Tensor, ...]:
    names = ("key", "value", "decay", "rate", "momentum", "clean")
    return scan_with_momentum(**{name: given[name] for name in names}, state=(given["matrix"], given["surprise"]))


def one_by_one(given: Tokens) -> tuple[Tensor, ...]:
    """Gated DeltaNet, equation 10, as it stands there but for the order of key and value."""
    matrix = given["matrix"]
    for t in range(given["key"].shape[1]):
        key, value = given["key"][:, t, :, :, None], given["value"][:, t, :, None, :]
        rate, decay = (given[name][:, t, :, None, None] for name in ("rate", "decay"))
        faded = decay.exp() * matrix
        after = faded - rate * key @ (key.mT @ faded) + rate * key @ value
        matrix = torch.where(given["clean"][:, t, None, None, None], after, matrix)
    return (matrix,)


def one_by_one_with_momentum(given: Tokens) -> tuple[Tensor, ...]:
    """Titans, equations 13 and 14, with the gradient of ||M^T k - v||^2 as autograd gives it and theta = rate / 2."""
    matrix, surprise = given["matrix"], given["surprise"]
    for t in range(given["key"].shape[1]):
        key, value = given["key"][:, t, :, :, None], given["value"][:, t, :, None, :]
        rate, decay, momentum = (given[name][:, t, :, None, None] for name in ("rate", "decay", "momentum"))
        gradient = torch.func.grad(lambda now, k=key, v=value: ((k.mT @ now - v) ** 2).sum())(matrix)
        pushed = momentum.exp() * surprise - rate / 2 * gradient
        clean = given["clean"][:, t, None, None, None]
        matrix = torch.where(clean, decay.exp() * matrix + pushed, matrix)
        surprise = torch.where(clean, pushed, surprise)
    return matrix, surprise


FORMS = [(in_chunks, one_by_one), (in_chunks_with_momentum, one_by_one_with_momentum)]
each_form = pytest.mark.parametrize(("parallel", "stepwise"), FORMS, ids=["gated", "momentum"])
Form = Callable[[Tokens], tuple[Tensor, ...]]


@each_form
@given(LENGTHS, st.integers(0, 2**31), LOGS, LOGS, st.floats(0.0, 1.0))
@settings(max_examples=25, deadline=None)
def test_chunks_equal_one_token_at_a_time(
    parallel: Form, stepwise: Form, length: int, seed: int, decay: float, momentum: float, clean_fraction: float
) -> None:
    given_ = tokens(length, seed, decay, momentum, clean_fraction, torch.float32)
    # The reference is exact: what is left is the rounding of the chunks, beside the largest number of the matrix.
    exact = {name: part.double() if part.is_floating_point() else part for name, part in given_.items()}
    for ours, theirs in zip(parallel(given_), stepwise(exact), strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


@each_form
def test_gradients_in_chunks_equal_those_of_one_token_at_a_time(parallel: Form, stepwise: Form) -> None:
    found = []
    for form in (parallel, stepwise):
        given_ = tokens(CHUNK_TOKENS + 9, 1, -0.2, -0.3, 0.8, torch.float32)
        names = [name for name in given_ if given_[name].is_floating_point()]
        for name in names:
            given_[name].requires_grad_()
        sum((part**2).sum() for part in form(given_)).backward()  # pyright: ignore[reportAttributeAccessIssue]
        found.append([given_[name].grad for name in names])
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, float(theirs.abs().max()))


@each_form
@given(st.lists(st.integers(1, 70), min_size=2, max_size=4), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_where_a_segment_ends_changes_nothing(parallel: Form, stepwise: Form, lengths: list[int], seed: int) -> None:
    del stepwise
    whole = tokens(sum(lengths), seed, -0.1, -0.5, 0.7, torch.float32)
    state = {"matrix": whole["matrix"], "surprise": whole["surprise"]}
    rest = {name: part.split(lengths, dim=1) for name, part in whole.items() if name not in state}
    for number in range(len(lengths)):
        after = parallel({name: parts[number] for name, parts in rest.items()} | state)
        state |= dict(zip(("matrix", "surprise"), after, strict=False))
    for name, ours in zip(("matrix", "surprise"), parallel(whole), strict=False):
        assert (ours - state[name]).abs().max() <= 1e-5 * max(1.0, float(ours.abs().max()))


@each_form
@given(st.integers(0, 2**31), st.lists(st.integers(0, 2), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_rows_with_resets_of_their_own_equal_each_by_itself(
    parallel: Form, stepwise: Form, seed: int, resets: list[int]
) -> None:
    """In segment number n the row `resets[n]` begins anew."""
    del stepwise
    segment = 21
    whole = tokens(segment * len(resets), seed, -0.1, -0.5, 0.9, torch.float32)
    rest = {name: part.split(segment, dim=1) for name, part in whole.items() if name not in ("matrix", "surprise")}

    def lived(rows: slice) -> dict[str, Tensor]:
        state = {name: whole[name][rows] for name in ("matrix", "surprise")}
        for number, reset in enumerate(resets):
            anew = (torch.arange(ROWS) == reset)[rows, None, None, None]
            state = {name: torch.where(anew, 0.0, part) for name, part in state.items()}
            after = parallel({name: parts[number][rows] for name, parts in rest.items()} | state)
            state |= dict(zip(("matrix", "surprise"), after, strict=False))
        return state

    together = lived(slice(0, ROWS))
    for row in range(ROWS):
        alone = lived(slice(row, row + 1))
        for name, part in alone.items():
            assert (part[0] - together[name][row]).abs().max() <= 1e-5 * max(1.0, float(part.abs().max()))


def largest_with_momentum(eta: float, turn: float, *, steady: bool, length: int = 8000) -> float:
    """Of a matrix that is to foretell nothing, while its keys turn: what it began with should die away."""
    angle = turn * torch.arange(length)
    key = torch.stack([angle.cos(), angle.sin()], dim=-1)[None, :, None]
    momentum = torch.full((1, length, 1), eta).log()
    rate = torch.ones_like(momentum)
    after = scan_with_momentum(
        key,
        torch.zeros(1, length, 1, 2),
        torch.zeros_like(momentum),
        steady_rate(rate, momentum) if steady else rate,
        momentum,
        torch.ones(1, length, dtype=torch.bool),
        (torch.eye(2)[None, None], torch.zeros(1, 1, 2, 2)),
    )
    return float(torch.cat(after).abs().max())


@pytest.mark.parametrize("eta", [0.1, 0.44, 0.6, 0.8, 0.9])
def test_a_steady_rate_keeps_the_matrix_bounded_whatever_its_keys_do(eta: float) -> None:
    assert all(largest_with_momentum(eta, turn, steady=True) < 1.01 for turn in (0.05, 0.2, 0.37, 0.7, 1.6, 3.0))


def test_without_it_the_matrix_grows_without_end() -> None:
    assert not largest_with_momentum(0.9, 0.2, steady=False) < 1e6
