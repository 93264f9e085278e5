"""How far inferred actions agree with known ones.

Run: pytest tests/evaluation/test_latent_action_figures.py
"""

from __future__ import annotations

import numpy as np
import pytest

from unimodel.evaluation.latent_actions import adjusted_mutual_information, best_map


def test_adjusted_mutual_information_of_known_cases() -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    assert adjusted_mutual_information(labels, (labels + 1) % 3) == pytest.approx(1.0)
    assert adjusted_mutual_information(labels, np.zeros(6, dtype=int)) == 0.0
    # The worked example of scikit-learn's tests.
    one = np.array([1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3])
    other = np.array([1, 1, 1, 1, 2, 1, 2, 2, 2, 2, 3, 1, 3, 3, 3, 2, 2])
    assert adjusted_mutual_information(one, other) == pytest.approx(0.27821, abs=1e-5)
    assert adjusted_mutual_information(other, one) == pytest.approx(0.27821, abs=1e-5)


def test_adjusted_mutual_information_is_0_by_chance_however_many_codes_there_are() -> None:
    rng = np.random.default_rng(0)
    for codes in (2, 8, 32):
        found = [
            adjusted_mutual_information(rng.integers(codes, size=60), rng.integers(4, size=60)) for _ in range(200)
        ]
        assert abs(np.mean(found)) < 0.01


def test_the_map_is_fitted_to_the_other_episodes() -> None:
    codes = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    actions = np.array([4, 4, 2, 2, 4, 4, 2, 4])
    owners = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    told, majority = best_map(codes, actions, owners)
    assert told[4:].tolist() == [4, 4, 2, 2], "fitted to episode 0"
    assert told[:4].tolist() == [4, 4, 2, 2], "and the reverse; a tie goes to the smaller number"
    assert majority.tolist() == [4, 4, 4, 4, 2, 2, 2, 2]
    new = best_map(np.array([0, 0, 3, 3]), np.array([1, 1, 1, 0]), np.array([0, 0, 1, 1]))[0]
    assert new.tolist() == [0, 0, 1, 1], "a code that the other half never has stands for its most frequent action"


def test_codes_that_name_episodes_and_not_actions_tell_nothing() -> None:
    """The map of an episode means nothing in another: codes for how a world looks are found out."""
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(200), 4)
    actions = rng.integers(4, size=800)
    told, majority = best_map(owners % 8, actions, owners)
    assert (told == actions).mean() < 0.32 and (majority == actions).mean() < 0.32
