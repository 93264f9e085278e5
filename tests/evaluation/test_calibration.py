"""Calibration: scores by hand, and expectations that are those of the live world after the same frames.

Run: pytest tests/evaluation/test_calibration.py
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, tiny_backbone, toy_episode

from unimodel.evaluation.calibration import calibration_error, evaluate_calibration, pair_after_real_frames, reliability
from unimodel.evaluation.rollouts import Outcomes
from unimodel.evaluation.table import Row
from unimodel.world.state import WorldState
from unimodel.world.worlds import Worlds

HAPPENED = [Outcomes(np.array([0.0, 0.0, 1.0]), np.array([False, False, True])), Outcomes(np.zeros(1), np.zeros(1) > 0)]


def _rows(*expected: Outcomes) -> dict[str, Row]:
    pairs = list(zip(expected, HAPPENED, strict=True))
    return {row.metric: row for row in evaluate_calibration(pairs, "real", "stage")}


def test_who_knows_what_happens_makes_no_error() -> None:
    rows = _rows(*HAPPENED)
    assert [row.model for row in rows.values()] == [0.0, 0.0, 0.0]
    assert rows["episode end Brier score, real frames"].better and rows["reward error, real frames"].better
    assert rows["episode end calibration error, real frames"].better is None, "a constant would have none either"


def test_the_mean_rate_is_calibrated_and_no_better_than_the_baseline() -> None:
    rows = _rows(*(Outcomes(np.full(n, 0.25), np.full(n, 0.25)) for n in (3, 1)))
    score, error = rows["episode end Brier score, real frames"], rows["reward error, real frames"]
    assert score.model == score.baseline == pytest.approx(0.25 * 0.75)
    assert error.model == error.baseline == pytest.approx(np.sqrt(0.25 * 0.75))
    assert not score.better and not error.better
    assert rows["episode end calibration error, real frames"].model == pytest.approx(0.0)


def test_errors_by_hand() -> None:
    pairs = list(zip([Outcomes(np.zeros(3), np.array([0.3, 0.3, 1.0])), Outcomes(np.zeros(1), np.array([0.94]))],
                     HAPPENED, strict=True))  # fmt: skip
    # Two steps at 0.3 of which none ended; 1.0 and 0.94 in the last tenth, of which one did.
    assert calibration_error(pairs).value == pytest.approx((2 * 0.3 + 2 * 0.47) / 4)
    assert reliability(pairs) == [
        {"steps": 2, "said": 0.3, "ended": 0.0},
        {"steps": 2, "said": 0.97, "ended": 0.5},
    ]
    rows = {row.metric: row for row in evaluate_calibration(pairs, "own", "stage")}
    assert rows["episode end Brier score, own frames"].model == pytest.approx((2 * 0.09 + 0.94**2) / 4)
    assert rows["reward error, own frames"].model == pytest.approx(0.5)


def test_outcomes_that_nobody_told_or_that_never_vary_ask_nothing() -> None:
    untold = (Outcomes(np.ones(2), np.ones(2)), Outcomes(np.full(2, np.nan), np.zeros(2) > 0))
    same = (Outcomes(np.ones(2), np.ones(2)), Outcomes(np.zeros(2), np.zeros(2) > 0))
    assert evaluate_calibration([untold], "real", "stage") == []
    assert evaluate_calibration([same, same], "real", "stage") == []


@pytest.mark.parametrize("sink", [False, True])
def test_after_real_frames_it_is_what_the_live_world_expects(sink: bool) -> None:
    frames, backbone = 3, tiny_backbone()
    episodes = [toy_episode(seed, steps=steps) for seed, steps in enumerate((5, 1, 2))]
    stages = {"play": SimpleNamespace(world=SimpleNamespace(frames=frames, sink=sink))}
    loaded: Any = SimpleNamespace(
        stage="play",
        config=SimpleNamespace(stages=stages),
        backbone=backbone,
        bundle=SimpleNamespace(builder=BUILDER, vocabulary=VOCABULARY, pad_id=PAD_ID),
    )
    pairs = pair_after_real_frames(loaded, episodes)
    assert [len(expected.over) for expected, _ in pairs] == [5, 1, 2]
    for episode, (expected, happened) in zip(episodes, pairs, strict=True):
        assert happened.over is episode.done and happened.rewards is episode.rewards
        for step in range(len(episode.actions)):
            read = 2 + step % (frames - 1)  # frames of the window that this step was asked in, up to its own
            worlds = Worlds(backbone, BUILDER, PAD_ID, window_frames=read + 1, has_sink=sink)
            slot = worlds.open(WorldState(episode.mission, episode.frames[: step + 2], episode.actions[: step + 1]))
            outcome = worlds.outcomes([slot])
            assert expected.over[step] == pytest.approx(outcome.over[0], abs=1e-5)
            assert expected.rewards[step] == pytest.approx(outcome.rewards[0], abs=1e-4)
