"""What is recalled, by how long ago: figures of made-up answers that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unimodel.evaluation.memory import EMPTY, Recalled, recall_figures

WINDOW, CODES, STEPS = 4, 5, 240


def answers(knows_steps: int, seed: int = 0, episodes: int = 30) -> list[Recalled]:
    """Of a model that recalls all that is no older than `knows_steps`, and of older things one code in five."""
    rng = np.random.default_rng(seed)
    some = []
    for _ in range(episodes):
        since = np.where(rng.random(STEPS) < 0.3, rng.integers(1, 160, size=STEPS), 0)
        right = np.where((since <= knows_steps) & (since > 0), CODES, 1)
        is_rewarded = rng.random() < 0.5
        is_told = is_rewarded if since[-1] <= knows_steps else rng.random() < 0.5
        some.append(Recalled(since, right, CODES, bool(is_rewarded), bool(is_told)))
    return some


@pytest.mark.parametrize(("knows_steps", "half_life"), [(16, 6), (40, 12), (1000, 64)])
def test_the_half_life_is_where_half_of_what_can_be_recalled_is_gone(knows_steps: int, half_life: int) -> None:
    found = recall_figures(answers(knows_steps), answers(WINDOW), WINDOW, "memory")
    rows, curves = found.rows, found.curves
    lives = {row.metric: row.model for row in found.details}
    assert lives["recalled tokens, half-life"] == half_life
    tokens = curves[0].lines[0].estimates
    expected = [1.0 if steps <= knows_steps else 0.2 for steps in curves[0].steps]
    shown = [round(one.value, 6) for steps, one in zip(curves[0].steps, tokens, strict=True) if steps != 48]
    assert shown == [value for steps, value in zip(curves[0].steps, expected, strict=True) if steps != 48]
    far = next(row for row in rows if row.metric == "recalled tokens, 10 windows ago and more")
    assert far.model == pytest.approx(1.0 if knows_steps > 160 else 0.2) and far.baseline == pytest.approx(0.2)
    assert far.baseline_name == EMPTY and bool(far.better) == (knows_steps > 160)


def test_outcomes_are_told_beside_chance_and_left_out_where_they_are_all_alike() -> None:
    found = recall_figures(answers(1000, 0, 2000), answers(WINDOW, 0, 2000), WINDOW, "memory")
    outcomes = next(row for row in found.rows if row.metric == "recalled outcomes, beyond the window")
    # One answer an episode: about 600 of 2,000 end with what was seen before; four standard deviations of their share.
    assert outcomes.model == 1.0 and outcomes.baseline == pytest.approx(0.5, abs=0.08)
    assert 500 < outcomes.samples < 700
    alike = [replace(one, is_rewarded=False) for one in answers(1000)]
    assert all("outcomes" not in row.metric for row in recall_figures(alike, alike, WINDOW, "memory").rows)
