"""Alignment: the masked estimator against exact likelihoods of a toy that can be enumerated, and what a group says.

Run: pytest tests/objectives/test_alignment.py
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toy_sequences import BUILDER, VOCABULARY, toy_episode

from unimodel.config import RunConfig, StageConfig
from unimodel.config_objectives import AlignmentConfig
from unimodel.layout import NO_TARGET, Role
from unimodel.objectives.alignment import (
    clipped_gain,
    divergence,
    draw_mask,
    group_advantages,
    place_advantages,
    preference_loss,
    preference_margin,
    preference_slope,
)
from unimodel.objectives.corruption import corrupt
from unimodel.vocabulary import Modality

TOKENS, SYMBOLS = 3, 4
EVERYTHING = list(itertools.product(range(SYMBOLS), repeat=TOKENS))
MASKS = [mask for mask in itertools.product([False, True], repeat=TOKENS) if any(mask)]


def mask_chance(mask: tuple[bool, ...]) -> float:
    """Of exactly this mask, when k is uniform on 1..TOKENS."""
    k = sum(mask)
    return 1 / TOKENS / len(list(itertools.combinations(range(TOKENS), k)))


def joint(seed: int) -> Tensor:
    """float64 [SYMBOLS] * TOKENS, probabilities of every sequence."""
    logits = torch.randn(SYMBOLS**TOKENS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.softmax(dim=0).reshape((SYMBOLS,) * TOKENS)


def conditional(chances: Tensor, x: tuple[int, ...], place: int, mask: tuple[bool, ...]) -> Tensor:
    """log p(x at `place` | what `mask` leaves visible), exactly."""
    given = chances[tuple(slice(None) if hidden else x[i] for i, hidden in enumerate(mask))]
    others = tuple(n for n, i in enumerate([i for i, hidden in enumerate(mask) if hidden]) if i != place)
    marginal = given.sum(dim=others) if others else given
    return (marginal[x[place]] / marginal.sum()).log()


# --- the estimator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [(0, 1, 2), (3, 3, 3), (1, 0, 3)])
def test_with_exact_conditionals_the_estimate_is_the_likelihood(x: tuple[int, ...]) -> None:
    """n times the expected mean over hidden tokens is log p(x), to rounding."""
    chances = joint(1)
    estimate = TOKENS * sum(
        mask_chance(mask)
        * sum(conditional(chances, x, place, mask) for place in range(TOKENS) if mask[place])
        / sum(mask)
        for mask in MASKS
    )
    assert estimate == pytest.approx(float(chances[x].log()), abs=1e-12)


def test_the_gradient_is_that_of_the_expected_reward() -> None:
    """Of a policy whose tokens do not depend on each other: the mean of the estimator's gradient over everything that
    it may draw, under every mask, is the exact gradient of the expected reward, per token."""
    logits = torch.randn(TOKENS, SYMBOLS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logits.requires_grad_()
    rewards = {x: float((x[0] == 1) + 2 * (x[1] == x[2])) for x in EVERYTHING}

    def log_p(x: tuple[int, ...]) -> Tensor:
        return logits.log_softmax(dim=1)[torch.arange(TOKENS), torch.tensor(x)]

    expected = sum(log_p(x).sum().exp() * rewards[x] for x in EVERYTHING)
    (exact,) = torch.autograd.grad(expected, logits)  # pyright: ignore[reportArgumentType]
    gain = torch.zeros((), dtype=torch.float64)
    for x, mask in itertools.product(EVERYTHING, MASKS):
        taken = log_p(x)[list(mask)]
        worth = torch.full_like(taken, rewards[x])
        chance = log_p(x).sum().exp().detach() * mask_chance(mask)
        gain = gain + chance * clipped_gain(taken, taken.detach(), worth, clip=0.2).mean()
    (estimated,) = torch.autograd.grad(gain, logits)
    assert torch.allclose(estimated * TOKENS, exact, atol=1e-12)


@pytest.mark.parametrize("masks", [1, 4])
def test_masks_are_spread_over_all_sizes(masks: int) -> None:
    """Together they hide 1 to n tokens, each number as often; each keeps to its part; every place alike."""
    rng, n, draws = np.random.default_rng(0), 8, 4000
    sizes, places = np.zeros(n + 1), np.zeros(n)
    for number in range(masks):
        for _ in range(draws // masks):
            hidden = draw_mask(n, number, masks, rng)
            assert number * n / masks < hidden.sum() <= (number + 1) * n / masks
            sizes[hidden.sum()] += 1
            places += hidden
    assert sizes[0] == 0
    # Four standard deviations of a count of 4000 draws.
    assert np.abs(sizes[1:] / draws - 1 / n).max() < 4 * np.sqrt(1 / n / draws)
    assert np.abs(places / draws - (n + 1) / 2 / n).max() < 4 * 0.5 / np.sqrt(draws)


# --- the group ------------------------------------------------------------------------------------------------------


def test_advantages_are_rewards_in_standard_deviations_of_their_group() -> None:
    rewards = torch.tensor([[1.0, 5.0, 3.0], [3.0, 5.0, 3.0], [2.0, 5.0, 9.0]], dtype=torch.float64)
    advantages = group_advantages(rewards)
    assert torch.allclose(advantages.mean(dim=0), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert advantages[:, 0].tolist() == pytest.approx([-(1.5**0.5), 1.5**0.5, 0.0])
    assert advantages[:, 1].tolist() == [0.0, 0.0, 0.0], "a group of equals tells nothing, and divides by nothing"
    assert torch.allclose(group_advantages(7 * rewards - 3), advantages), "neither scale nor offset counts"


def test_advantages_of_places_climb_the_logarithm_of_the_chance_to_be_right() -> None:
    """Of many draws, the mean of advantage x gradient of the log-probability is the gradient of log p(right)."""
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    chances = logits.log_softmax(dim=0)
    drawn = torch.multinomial(chances.exp().detach(), 200_000, True, generator=torch.Generator().manual_seed(0))
    right = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)[drawn]
    (gradient,) = torch.autograd.grad((place_advantages(right) * chances[drawn]).mean(), logits, retain_graph=True)
    (exact,) = torch.autograd.grad(chances[:2].logsumexp(dim=0), logits)
    assert torch.allclose(gradient, exact, atol=0.01)  # shares of 200,000 draws, 3 of 10 right: within 1%
    assert place_advantages(torch.tensor([[0.0, 1.0], [0.0, 1.0]])).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_nothing_is_gained_beyond_the_clip() -> None:
    old = torch.zeros(4)
    new = torch.tensor([0.1, 0.5, -0.5, 0.5], requires_grad=True)
    gain = clipped_gain(new, old, torch.tensor([1.0, 1.0, -1.0, -1.0]), clip=0.2)
    gain.sum().backward()
    assert gain.tolist() == pytest.approx([np.exp(0.1), 1.2, -0.8, -np.exp(0.5)])
    assert new.grad is not None
    # A bad token that has become likelier is not clipped: its way back is open.
    assert new.grad.tolist() == pytest.approx([np.exp(0.1), 0.0, 0.0, -np.exp(0.5)])


def test_divergence_is_none_from_itself_and_exact_from_another() -> None:
    one, other = (torch.randn(5, 7, generator=torch.Generator().manual_seed(s)).log_softmax(dim=1) for s in (0, 1))
    assert divergence(one, one).abs().max() == 0
    expected = F.kl_div(other, one, log_target=True, reduction="none").sum(dim=1)
    assert torch.allclose(divergence(one, other), expected, atol=1e-6)
    assert (divergence(one, other) > 0).all()


# --- preferences ----------------------------------------------------------------------------------------------------


def test_the_slope_of_a_preference_is_that_of_its_loss() -> None:
    margin = torch.tensor([-30.0, -1.0, 0.0, 2.0, 50.0], dtype=torch.float64, requires_grad=True)
    preference_loss(margin, 0.3).sum().backward()
    assert margin.grad is not None
    assert torch.allclose(-margin.grad, preference_slope(margin.detach(), 0.3))
    assert preference_loss(torch.zeros(1), 0.3).item() == pytest.approx(np.log(2))


def test_a_noise_that_all_models_share_leaves_the_margin() -> None:
    """Common masks: what a mask adds to the bounds of both models is not in the margin."""
    rng = torch.Generator().manual_seed(0)
    better, worse, noise, other_noise = torch.randn(4, 6, generator=rng)
    clean = preference_margin(better + 1, worse - 1, better, worse)
    noisy = preference_margin(better + 1 + noise, worse - 1 + other_noise, better + noise, worse + other_noise)
    assert torch.allclose(clean, torch.full((6,), 2.0), atol=1e-6) and torch.allclose(noisy, clean, atol=1e-6)


# --- prompts and settings -------------------------------------------------------------------------------------------


def test_a_prompt_hides_what_is_to_be_drawn_and_nothing_else() -> None:
    episode = toy_episode()
    sequence = BUILDER.text_to_image(episode.captions[0], episode.frames[0], "key")
    asked = corrupt(sequence, VOCABULARY, AlignmentConfig(kind="grpo"), 0, np.random.default_rng(0))
    drawn = sequence.role() == Role.TARGET
    assert (asked.input_ids[drawn] == VOCABULARY.mask(Modality.IMAGE)).all()
    assert (asked.input_ids[~drawn] == sequence.ids[~drawn]).all()
    assert ((asked.target != NO_TARGET) == drawn).all() and drawn.sum() == episode.frames[0].size


STAGE = {
    "number": 5,
    "steps": 3,
    "mixture": [{"sequence": "text_to_image", "objective": "aligned"}],
    "objectives": {"aligned": {"kind": "grpo"}},
}
DRAWS = {
    "number": 2,
    "steps": 3,
    "mixture": [{"sequence": "text_to_image", "objective": "image"}],
    "objectives": {"image": {"kind": "masked", "attention": "span"}},
}


def run(*stages: dict[str, object], **settings: object) -> RunConfig:
    named = {f"stage_{number}": stage for number, stage in enumerate(stages)}
    values = {"name": "test", "data": {"folder": "data"}, "stages": named} | settings
    return RunConfig.model_validate_json(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objectives": {"aligned": {"kind": "grpo", "group": 1}}}, "group\n.*greater than or equal to 2"),
        (
            {"mixture": [{"sequence": "clip", "objective": "aligned"}]},
            "takes its prompts from text_to_image of episodes",
        ),
        (
            {"objectives": {"aligned": {"kind": "dpo"}, "text": {"kind": "next_token"}}},
            "an alignment stage has one objective, this one has aligned, text",
        ),
    ],
)
def test_a_stage_that_cannot_be_aligned_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StageConfig.model_validate_json(json.dumps(STAGE | change))


def test_a_model_that_draws_must_come_before() -> None:
    with pytest.raises(ValueError, match="stages.stage_0 aligns a model that draws, and there is none before it"):
        run(STAGE)
    with pytest.raises(ValueError, match="and there is none before it"):
        run(STAGE, DRAWS | {"number": 6})
    assert run(DRAWS, STAGE).ordered_stages[-1][1].alignment is not None
    assert run(STAGE, initial_weights="runs/other")


def test_pictures_are_not_split_over_ranks() -> None:
    with pytest.raises(ValueError, match="stages.stage_1 draws whole pictures on each rank: set engine"):
        run(DRAWS, STAGE, engine={"sequence_parallel": 2})
