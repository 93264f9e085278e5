"""The one loss: objectives do not disturb each other, order does not matter, the softmax stays in its modality.

Run: pytest tests/objectives/test_loss.py
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, tiny_backbone, toy_episode

from unimodel.batch import CorruptedSequence, PackedBatch, pack
from unimodel.config_objectives import DiffusionForcingConfig, MaskedConfig, NextTokenConfig, ObjectiveConfig
from unimodel.layout import NO_TARGET
from unimodel.objectives.corruption import corrupt
from unimodel.objectives.loss import loss_sums, normalised_loss, normalisers
from unimodel.vocabulary import Modality

OBJECTIVES: list[ObjectiveConfig] = [
    NextTokenConfig(kind="next_token"),
    MaskedConfig(kind="masked", weight="elbo"),
    DiffusionForcingConfig(kind="diffusion_forcing", changed_weight=3.0),
]
COEFFICIENTS = [1.0, 0.5, 2.0]


def samples(objective: int, number: int) -> list[CorruptedSequence]:
    episodes = [toy_episode(10 * objective + i) for i in range(number)]
    build = [
        lambda e: BUILDER.image_to_text(e.frames[0], e.captions[0], e.key),
        lambda e: BUILDER.clip(e, 1),
        lambda e: BUILDER.interaction(e, 0, 4),
    ][objective]
    rng = np.random.default_rng(objective)
    return [corrupt(build(e), VOCABULARY, OBJECTIVES[objective], objective, rng) for e in episodes]


def random_logits(batch: PackedBatch, seed: int = 0) -> torch.Tensor:
    targets = int((batch.target != NO_TARGET).sum())
    return torch.randn(targets, VOCABULARY.size, generator=torch.Generator().manual_seed(seed))


def loss_of(logits: torch.Tensor, batch: PackedBatch, coefficients: list[float] = COEFFICIENTS) -> torch.Tensor:
    sums = loss_sums(logits, batch, VOCABULARY, len(coefficients))
    return normalised_loss(sums.by_objective, normalisers(batch, OBJECTIVES[: len(coefficients)]), coefficients)


def test_formula() -> None:
    """sum_o coef_o * (sum_i weight_i * CE_i) / N_o, written out for every target of a batch of three objectives."""
    batch = pack([[*samples(0, 1), *samples(1, 1)], samples(2, 1)], 160, PAD_ID)
    logits = random_logits(batch)
    places = (batch.target != NO_TARGET).nonzero().tolist()
    sums = [0.0] * 3
    counts = [
        float((batch.weight * (batch.objective == 0)).sum()),
        int((batch.objective == 1).sum()),  # a likelihood bound counts tokens
        float((batch.weight * (batch.objective == 2)).sum()),
    ]
    for row, (r, c) in enumerate(places):
        target = int(batch.target[r, c])
        ids = next(VOCABULARY.range_of(m) for m in Modality if target in VOCABULARY.range_of(m))
        restricted = logits[row, ids.start : ids.stop].double()
        cross_entropy = float(restricted.logsumexp(0) - logits[row, target].double())
        sums[int(batch.objective[r, c])] += float(batch.weight[r, c]) * cross_entropy
    expected = sum(k * s / n for k, s, n in zip(COEFFICIENTS, sums, counts, strict=True))
    assert min(counts) > 0
    assert float(loss_of(logits, batch)) == pytest.approx(expected, rel=1e-5)


def test_absent_objective_contributes_zero_and_changes_no_other() -> None:
    """Same batch, with and without a third objective in the stage: loss and gradient are bit-equal."""
    batch = pack([[*samples(0, 2), *samples(1, 2)]], 320, PAD_ID)
    results = []
    for coefficients in (COEFFICIENTS[:2], COEFFICIENTS):
        logits = random_logits(batch).requires_grad_()
        loss = loss_of(logits, batch, coefficients)
        loss.backward()
        results.append((loss.detach(), logits.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert float(results[0][0]) > 0


def test_samples_of_one_objective_do_not_change_the_share_of_another() -> None:
    """N_o counts only its own objective: adding masked samples leaves the next-token term alone."""
    few, many = (pack([samples(0, 2), samples(1, n)], 640, PAD_ID) for n in (1, 6))
    terms = []
    for batch in (few, many):
        of_first = (batch.target[0] != NO_TARGET).sum()
        logits = torch.cat([random_logits(few)[:of_first], random_logits(batch, 1)[of_first:]])
        terms.append(loss_of(logits, batch, [1.0, 0.0]))
    assert torch.equal(terms[0], terms[1])


def test_heavy_token_alone_in_its_batch_does_not_blow_up_the_loss() -> None:
    """A weight says how much a token counts beside others, not how large the loss of a batch is."""
    light, heavy = (
        MaskedConfig(kind="masked", modality_weights={"action": weight}, single_span_fraction=1.0) for weight in (1, 50)
    )
    losses = []
    for config in (light, heavy):
        rng = np.random.default_rng(0)
        while True:  # until the action alone is hidden
            sequence = corrupt(BUILDER.clip(toy_episode(1), 1), VOCABULARY, config, 0, rng)
            hidden = sequence.target != NO_TARGET
            if (sequence.modality[hidden] == Modality.ACTION).all():
                break
        batch = pack([[sequence]], 160, PAD_ID)
        sums = loss_sums(random_logits(batch), batch, VOCABULARY, 1)
        losses.append(float(normalised_loss(sums.by_objective, normalisers(batch, [config]), [1.0])))
    assert losses[0] > 0 and losses[1] == pytest.approx(losses[0])


def test_batch_without_any_target_has_loss_zero() -> None:
    batch = pack([[]], 16, PAD_ID)
    assert float(loss_of(random_logits(batch), batch)) == 0.0


def test_loss_does_not_depend_on_packing_order() -> None:
    """Real logits: the same samples in other rows, beside other neighbours, in another order."""
    backbone = tiny_backbone()
    sequences = [*samples(0, 2), *samples(1, 3), *samples(2, 2)]
    layouts = [[[0, 1, 2, 3], [4, 5], [6]], [[6, 2], [5, 0], [4, 3, 1]], [[i] for i in reversed(range(7))]]
    losses = []
    for layout in layouts:
        batch = pack([[sequences[i] for i in row] for row in layout], 200, PAD_ID)
        with torch.no_grad():
            losses.append(float(loss_of(backbone(batch), batch)))
    assert losses[0] > 0
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=2e-6)


@pytest.mark.parametrize("parts", [2, 3])
def test_loss_does_not_depend_on_how_rows_are_dealt(parts: int) -> None:
    """Sums of parts over the count of the whole: what ranks and accumulation steps do."""
    batch = pack(
        [samples(0, 1), samples(1, 1), samples(2, 1), samples(1, 1), samples(2, 1), samples(0, 1)], 160, PAD_ID
    )
    logits, counts = random_logits(batch), normalisers(batch, OBJECTIVES)
    whole = loss_of(logits, batch)
    dealt, start = torch.zeros(()), 0
    for first in range(0, 6, 6 // parts):
        part = batch.rows(first, first + 6 // parts)
        stop = start + int((part.target != NO_TARGET).sum())
        sums = loss_sums(logits[start:stop], part, VOCABULARY, 3)
        dealt, start = dealt + normalised_loss(sums.by_objective, counts, COEFFICIENTS), stop
    assert float(dealt) == pytest.approx(float(whole), rel=1e-6)


def test_softmax_stays_in_the_modality_of_the_target() -> None:
    """MASK and all other modalities' ids: no influence on the loss, no gradient, not even for a huge logit."""
    batch = pack([[*samples(0, 1), *samples(1, 1), *samples(2, 1)]], 320, PAD_ID)
    targets = batch.target[batch.target != NO_TARGET]
    own = torch.zeros(len(targets), VOCABULARY.size, dtype=torch.bool)
    for modality in Modality:
        ids = VOCABULARY.range_of(modality)
        own[(targets >= ids.start) & (targets < ids.stop), ids.start : ids.stop] = True
    for modality in Modality:
        if modality is not Modality.SPECIAL:
            assert not own[:, VOCABULARY.mask(modality)].any()
    logits = random_logits(batch).requires_grad_()
    loss = loss_of(logits, batch)
    loss.backward()
    disturbed = torch.where(own, logits.detach(), torch.tensor(1e4))
    assert torch.equal(loss_of(disturbed, batch), loss.detach())
    assert logits.grad is not None and (logits.grad[~own] == 0).all() and (logits.grad[own] != 0).any()


def test_logged_figures_are_unweighted() -> None:
    batch = pack([samples(2, 2)], 320, PAD_ID)
    targets = batch.target[batch.target != NO_TARGET]
    logits = torch.zeros(len(targets), VOCABULARY.size)
    logits[torch.arange(len(targets)), targets] = 50.0
    right = loss_sums(logits, batch, VOCABULARY, 3)
    assert torch.equal(right.modality_correct, right.modality_targets)
    assert int(right.modality_targets.sum()) == len(targets)
    flat = loss_sums(torch.zeros_like(logits), batch, VOCABULARY, 3)
    per_image_token = flat.modality_nats[Modality.IMAGE] / flat.modality_targets[Modality.IMAGE]
    assert float(per_image_token) == pytest.approx(np.log(VOCABULARY.image_size), rel=1e-6)
