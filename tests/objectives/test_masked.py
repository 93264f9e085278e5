"""The masked objective: its bound is the exact likelihood for exact conditionals; it masks what and how often it says.

Run: pytest tests/objectives/test_masked.py
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, toy_episode

from unimodel.batch import TokenSequence, pack
from unimodel.config_objectives import MaskedConfig
from unimodel.layout import NO_TARGET, Layout, Role, Span
from unimodel.objectives.loss import loss_sums, normalised_loss, normalisers
from unimodel.objectives.masked import corrupt_masked, count_probability, draw_mask, mask_rate
from unimodel.vocabulary import Modality

TOKENS, SYMBOLS = 4, 3
SCHEDULES = ("linear", "cosine")
COUNTS = ("fixed", "bernoulli")


def settings(**changes: object) -> MaskedConfig:
    return MaskedConfig(**({"kind": "masked", "weight": "elbo"} | changes))  # pyright: ignore[reportArgumentType]


# --- the bound ------------------------------------------------------------------------------------------------------


class ChosenRandomness:
    """Stands in for numpy's generator: gives out the values of one outcome, so that all outcomes can be enumerated."""

    def __init__(self, u: float, uniforms: np.ndarray | None = None, permutation: np.ndarray | None = None) -> None:
        self._scalars = iter([u, 1.0, 1.0])  # the rate; then "no whole modality" and "no condition dropout"
        self._uniforms, self._permutation = uniforms, permutation

    def random(self, size: int | None = None) -> float | np.ndarray:
        if size is None:
            return next(self._scalars)
        assert self._uniforms is not None and len(self._uniforms) == size
        return self._uniforms

    def permutation(self, size: int) -> np.ndarray:
        assert self._permutation is not None and len(self._permutation) == size
        return self._permutation


def outcomes(schedule: str, count: str) -> Iterator[tuple[float, ChosenRandomness]]:
    """(probability, randomness) of every outcome of `draw_mask`.

    Fixed counts change only where rate * n is whole: one u inside each piece stands for its exact length. Bernoulli
    masks are enumerated too, and u is integrated by Gauss-Legendre quadrature with 40 nodes: the integrand is a
    polynomial of degree 4 in u (linear) or in sines and cosines of pi u / 2 (cosine), for which it is exact to 1e-14.
    """
    if count == "fixed":
        wholes = np.arange(TOKENS + 1) / TOKENS
        edges = np.sort(wholes if schedule == "linear" else 2 / math.pi * np.arccos(wholes))
        permutations = [np.array(p) for p in itertools.permutations(range(TOKENS))]
        for low, high in itertools.pairwise(edges):
            for permutation in permutations:
                yield (high - low) / len(permutations), ChosenRandomness((low + high) / 2, permutation=permutation)
    else:
        nodes, weights = np.polynomial.legendre.leggauss(40)
        for u, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            rate = mask_rate(u, schedule)
            for mask in itertools.product([False, True], repeat=TOKENS):
                probability = rate ** sum(mask) * (1 - rate) ** (TOKENS - sum(mask))
                yield weight * probability, ChosenRandomness(u, uniforms=np.where(mask, 0.0, 1.0))


def toy_joint() -> np.ndarray:
    """float64 [3, 3, 3, 3]: a joint distribution without independences."""
    joint = np.random.default_rng(5).gamma(0.5, size=(SYMBOLS,) * TOKENS)
    return joint / joint.sum()


def log_conditional(joint: np.ndarray, symbols: tuple[int, ...], hidden: np.ndarray, place: int) -> np.ndarray:
    """[symbols] log p(x_place | the symbols that are not hidden), by summing the joint."""
    allowed = joint[tuple(slice(None) if hidden[i] else slice(s, s + 1) for i, s in enumerate(symbols))]
    marginal = allowed.sum(axis=tuple(i for i in range(TOKENS) if i != place))
    return np.log(marginal / marginal.sum())


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_bound_is_the_exact_negative_log_likelihood(schedule: str, count: str) -> None:
    """E[weight * sum of cross entropies] = -log p(x), for every x of a brute-forced joint, to 1e-9."""
    joint, config = toy_joint(), settings(schedule=schedule, mask_count=count)
    drawn = [(p, *draw_mask(TOKENS, config, rng)) for p, rng in outcomes(schedule, count)]  # pyright: ignore
    assert sum(p for p, _, _ in drawn) == pytest.approx(1.0, abs=1e-12)
    for symbols in itertools.product(range(SYMBOLS), repeat=TOKENS):
        bound = sum(
            probability * weight * -log_conditional(joint, symbols, hidden, place)[symbols[place]]
            for probability, hidden, weight in drawn
            for place in np.flatnonzero(hidden)
        )
        assert bound == pytest.approx(-math.log(joint[symbols]), abs=1e-9)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_training_loss_is_the_bound_per_token(schedule: str, count: str) -> None:
    """The same through corruption, packing and the loss, which computes in float32: 1e-5."""
    joint, config = toy_joint(), settings(schedule=schedule, mask_count=count)
    symbols = (2, 0, 1, 1)
    ids = VOCABULARY.ids(Modality.ACTION, np.array(symbols))
    sequence = TokenSequence("toy", ids, Layout([Span(0, TOKENS, Modality.ACTION, Role.TARGET)]))
    start = VOCABULARY.range_of(Modality.ACTION).start
    expected = 0.0
    for probability, rng in outcomes(schedule, count):
        batch = pack([[corrupt_masked(sequence, VOCABULARY, config, 0, rng)]], TOKENS + 2, PAD_ID)  # pyright: ignore
        hidden = (batch.target[0, :TOKENS] != NO_TARGET).numpy()
        logits = torch.full((int(hidden.sum()), VOCABULARY.size), 9.0)
        logits[:, start : start + VOCABULARY.action_size] = -80.0
        for row, place in enumerate(np.flatnonzero(hidden)):
            conditional = log_conditional(joint, symbols, hidden, place)
            logits[row, start : start + SYMBOLS] = torch.from_numpy(conditional).float()
        sums = loss_sums(logits, batch, VOCABULARY, 1)
        expected += probability * float(normalised_loss(sums.by_objective, normalisers(batch, [config]), [1.0]))
    assert expected * TOKENS == pytest.approx(-math.log(joint[symbols]), rel=1e-5)


def test_single_span_hides_one_span_and_changes_weigh_more() -> None:
    """Every span of a clip is asked for alone in turn; only frame tokens that changed get the extra weight."""
    config = settings(weight="uniform", single_span_fraction=1.0, changed_weight=5.0)
    sequence = BUILDER.clip(toy_episode(3), 1)
    targets = [span for span in sequence.spans if span.role is Role.TARGET]
    first, second = (span for span in targets if span.grid is not None)
    changed = sequence.ids[first.start : first.stop] != sequence.ids[second.start : second.stop]
    assert 0 < changed.sum() < len(changed)
    rng, asked = np.random.default_rng(0), set()
    for _ in range(60):
        result = corrupt_masked(sequence, VOCABULARY, config, 0, rng)
        hidden = np.flatnonzero(result.target != NO_TARGET)
        (span,) = (s for s in targets if s.start <= hidden[0] < s.stop)
        assert hidden[-1] < span.stop
        asked.add(span)
        expected = np.where(changed[hidden - span.start], 5.0, 1.0) if span == second else 1.0
        expected = 5.0 if span.modality is Modality.ACTION else expected
        assert (result.weight[hidden] == expected).all(), "an action that changed anything counts as a change"
    assert asked == set(targets)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_count_probabilities_sum_to_one(schedule: str, n: int) -> None:
    probabilities = count_probability(np.arange(1, n + 1), n, schedule)
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-12)
    assert (probabilities > 0).all()


# --- rates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_drawn_counts_follow_their_probabilities(schedule: str) -> None:
    """20,000 draws of 8 tokens: every count within 5 standard deviations."""
    rng, config, draws = np.random.default_rng(0), settings(schedule=schedule, mask_count="fixed"), 20_000
    counts = [int(draw_mask(8, config, rng)[0].sum()) for _ in range(draws)]
    expected = count_probability(np.arange(1, 9), 8, schedule) * draws
    observed = np.bincount(counts, minlength=9)
    assert observed[0] == 0, "fixed counts hide at least one token"
    assert (np.abs(observed[1:] - expected) < 5 * np.sqrt(expected)).all(), (observed, expected)


@pytest.mark.parametrize(("schedule", "mean"), [("linear", 1 / 2), ("cosine", 2 / math.pi)])
@pytest.mark.parametrize("count", COUNTS)
def test_empirical_mask_rate_matches_the_schedule(schedule: str, mean: float, count: str) -> None:
    rng, config = np.random.default_rng(1), settings(schedule=schedule, mask_count=count)
    rates = np.array([draw_mask(200, config, rng)[0].mean() for _ in range(8000)])
    assert rates.mean() == pytest.approx(mean, abs=0.015), "5 standard errors, and half a token for rounding up"
    quantile = math.acos(0.5) * 2 / math.pi if schedule == "cosine" else 0.5
    assert (rates > 0.5).mean() == pytest.approx(quantile, abs=0.03), "not only the mean"


@pytest.mark.parametrize("count", COUNTS)
def test_every_place_is_hidden_equally_often(count: str) -> None:
    rng, config = np.random.default_rng(2), settings(schedule="linear", mask_count=count)
    hidden = np.mean([draw_mask(10, config, rng)[0] for _ in range(8000)], axis=0)
    assert np.ptp(hidden) < 0.04, hidden


def test_uniform_weight_is_one() -> None:
    rng = np.random.default_rng(3)
    for schedule, count in itertools.product(SCHEDULES, COUNTS):
        config = settings(schedule=schedule, mask_count=count, weight="uniform")
        assert {draw_mask(9, config, rng)[1] for _ in range(50)} == {1.0}


# --- what may be hidden ---------------------------------------------------------------------------------------------

SEQUENCES = {
    "clip": BUILDER.clip(toy_episode(1), 1),
    "text_to_image": BUILDER.text_to_image(toy_episode(1).captions[2], toy_episode(1).frames[2], "e"),
    "image_to_text": BUILDER.image_to_text(toy_episode(1).frames[2], toy_episode(1).captions[2], "e"),
    "interaction": BUILDER.interaction(toy_episode(1), 0, 4),
}
VARIANTS = [
    {},
    {"mask_count": "bernoulli", "schedule": "linear"},
    {"whole_modality_fraction": 1.0, "weight": "uniform"},
    {"attention": "span", "weight": "uniform"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", SEQUENCES)
def test_only_targets_are_hidden_and_asked_for(kind: str, variant: dict[str, object]) -> None:
    sequence, config = SEQUENCES[kind], settings(**variant)
    given = sequence.role() != Role.TARGET
    masks = {VOCABULARY.mask(m) for m in Modality if m is not Modality.SPECIAL}
    assert given.any() and not given.all()
    for seed in range(30):
        corrupted = corrupt_masked(sequence, VOCABULARY, config, 2, np.random.default_rng(seed))
        hidden = np.isin(corrupted.input_ids, list(masks))
        assert (corrupted.input_ids[~hidden] == sequence.ids[~hidden]).all(), "the rest is read as it is"
        assert not hidden[given].any(), "conditions and structure stay visible"
        assert ((corrupted.target != NO_TARGET) == hidden).all(), "asked for exactly where hidden"
        assert (corrupted.target[hidden] == sequence.ids[hidden]).all()
        assert ((corrupted.weight > 0) == hidden).all()
        counted = ~given if config.weight == "elbo" else hidden
        assert (corrupted.objective == np.where(counted, 2, -1)).all()


def test_hidden_tokens_stand_behind_the_mask_of_their_modality() -> None:
    sequence = SEQUENCES["clip"]
    corrupted = corrupt_masked(sequence, VOCABULARY, settings(schedule="linear"), 0, np.random.default_rng(4))
    hidden = corrupted.target != NO_TARGET
    expected = [VOCABULARY.mask(Modality(m)) for m in sequence.modality()[hidden]]
    assert (corrupted.input_ids[hidden] == expected).all()
    assert len(set(expected)) > 1


def test_corruption_leaves_the_sequence_alone() -> None:
    sequence, before = SEQUENCES["clip"], SEQUENCES["clip"].ids.copy()
    corrupt_masked(sequence, VOCABULARY, settings(), 0, np.random.default_rng(0))
    assert (sequence.ids == before).all()


def test_whole_modality_hides_one_modality_completely() -> None:
    sequence, rng = SEQUENCES["clip"], np.random.default_rng(5)
    target_modalities = sequence.modality()[sequence.role() == Role.TARGET]
    complete = {int(m): 0 for m in np.unique(target_modalities)}
    for _ in range(300):
        corrupted = corrupt_masked(
            sequence, VOCABULARY, settings(whole_modality_fraction=1.0, weight="uniform"), 0, rng
        )
        hidden = (corrupted.target != NO_TARGET)[sequence.role() == Role.TARGET]
        whole = [m for m in complete if hidden[target_modalities == m].all()]
        assert whole, "at least one modality is hidden completely"
        for m in whole:
            complete[m] += 1
    assert all(times > 60 for times in complete.values()), f"each in its turn: {complete}"


def test_whole_modality_rate_is_the_fraction_and_not_its_complement() -> None:
    sequence = SEQUENCES["text_to_image"]  # its one target modality is the picture

    def share(fraction: float) -> float:
        rng, config = (
            np.random.default_rng(6),
            settings(schedule="linear", weight="uniform", whole_modality_fraction=fraction),
        )
        drawn = [corrupt_masked(sequence, VOCABULARY, config, 0, rng) for _ in range(3000)]
        return float(np.mean([(c.target != NO_TARGET).sum() == (sequence.role() == Role.TARGET).sum() for c in drawn]))

    by_chance = 1 / 9  # 9 codes, each count equally likely
    assert share(0.0) == pytest.approx(by_chance, abs=0.03)
    assert share(0.2) == pytest.approx(0.2 + 0.8 * by_chance, abs=0.04)


@pytest.mark.parametrize("fraction", [0.0, 0.15, 1.0])
def test_condition_dropout_rate_is_the_fraction_and_not_its_complement(fraction: float) -> None:
    sequence, rng = SEQUENCES["text_to_image"], np.random.default_rng(7)
    config = settings(condition_dropout_fraction=fraction)
    prompt = (sequence.role() == Role.CONDITION) & (sequence.modality() == Modality.TEXT)
    dropped = []
    for _ in range(3000):
        corrupted = corrupt_masked(sequence, VOCABULARY, config, 0, rng)
        hidden = corrupted.input_ids[prompt] == VOCABULARY.mask(Modality.TEXT)
        assert hidden.all() or not hidden.any(), "a prompt is there or not"
        assert (corrupted.target[prompt] == NO_TARGET).all(), "a dropped prompt is never a target"
        dropped.append(hidden.all())
    assert np.mean(dropped) == pytest.approx(fraction, abs=0.035)


def test_attention_document_is_one_block_and_span_keeps_text_causal() -> None:
    sequence, rng = SEQUENCES["text_to_image"], np.random.default_rng(8)
    assert (corrupt_masked(sequence, VOCABULARY, settings(), 0, rng).block == 0).all()
    block = corrupt_masked(sequence, VOCABULARY, settings(attention="span"), 0, rng).block
    assert ((block >= 0) == (sequence.modality() == Modality.IMAGE)).all()
