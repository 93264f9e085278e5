"""Controllers play the same episodes in the model and for real.

Run: pytest tests/evaluation/test_control.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_run import command
from toy_run import make_toy_run

from unimodel.evaluation.control import ControlSettings, Pair, Played, play_episode, play_pairs, score
from unimodel.training.loaded_run import load_run
from unimodel.world.controllers.planner import PlanSettings
from unimodel.world.controllers.roster import ImaginationSettings, controller_names
from unimodel.world.real import RealEpisode
from unimodel.world.starts import Starts
from unimodel.world.state import WorldState

PLAN = PlanSettings(horizon_steps=2, plans=4, iterations=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_run(tmp_path_factory.mktemp("control")).path


def test_the_real_episode_is_the_recorded_one(run: Path) -> None:
    """The same world: what was recorded first is what is seen first, and the same actions lead to the same frames."""
    loaded = load_run(run)
    starts, longer = Starts(loaded, "test"), Starts(loaded, "test", frames=99)
    for number in range(len(starts)):
        recorded, place = longer[number].state, RealEpisode(loaded, starts[number])
        np.testing.assert_array_equal(place.state.frames, starts[number].state.frames)
        for action in recorded.actions.tolist():
            place.step(action)
        place.close()
        np.testing.assert_array_equal(place.state.frames, recorded.frames)
        np.testing.assert_array_equal(place.state.mission, recorded.mission)


@pytest.mark.parametrize("memory_frames", [0, 1])
def test_every_controller_plays_the_same_episodes_and_plays_them_the_same_again(run: Path, memory_frames: int) -> None:
    imagination = ImaginationSettings(memory_frames, values=True)
    settings = ControlSettings(("cem", "shooting"), "validation", 2, 3, PLAN, imagination)
    told: list[tuple[str, Pair]] = []
    pairs, path = play_pairs(run, None, settings, lambda name, pair: told.append((name, pair)))
    assert list(pairs) == ["random", "bc", "cem", "shooting"]
    for some in pairs.values():
        assert [pair.episode for pair in some] == [0, 1]
        assert all(1 <= played.steps <= 3 for pair in some for played in (pair.imagined, pair.real))
    assert [pair for _, pair in told] == [some[episode] for episode in range(2) for some in pairs.values()]
    assert play_pairs(run, None, settings, lambda *_: None)[0] == pairs
    written = json.loads(path.read_text())
    assert written["settings"]["plan"]["plans"] == 4 and written["settings"]["stage"] == "interactive"
    low, high = written["controllers"]["cem"]["score"]["real_solved"]["interval"]
    assert 0 <= low <= written["controllers"]["cem"]["score"]["real_solved"]["mean"] <= high <= 1
    assert written["controllers"]["cem"]["pairs"][1]["real"]["total"] == pairs["cem"][1].real.total


def test_the_score_tells_how_sure_it_is() -> None:
    pairs = [Pair(n, Played(1.0, True, 3), Played(n % 2, n % 2 == 1, 5)) for n in range(20)]
    figures = score(pairs)
    assert figures.imagined_return.value == figures.imagined_return.low == figures.imagined_return.high == 1.0
    assert figures.real_return.value == figures.real_solved.value == figures.gap.value == 0.5
    assert 0.2 < figures.real_return.low < 0.4 < 0.6 < figures.real_return.high < 0.8
    assert figures.imagined_solved.high == 1.0 and 0.8 < figures.imagined_solved.low < 0.9, "20 of 20 prove little"


def test_an_episode_is_solved_when_it_ends_with_a_reward() -> None:
    class Told:
        state = WorldState(*(np.zeros(0, dtype=np.int64) for _ in range(3)))

        def __init__(self, *steps: tuple[float, bool, bool]) -> None:
            self.steps = iter(steps)

        def step(self, action):
            return (np.zeros(0), *next(self.steps), {})

    class Zero:
        def begin(self, seed): ...
        def act(self, state):
            return 0

    for steps, expected in (
        ([(0.0, False, False), (0.5, True, False)], Played(0.5, True, 2)),
        ([(0.5, False, False), (0.0, True, False)], Played(0.5, False, 2)),
        ([(0.5, False, True)], Played(0.5, False, 1)),
        ([(0.5, False, False)] * 3, Played(1.5, False, 3)),
    ):
        assert play_episode(Zero(), Told(*steps), 0, 3) == expected


def test_unknown_controllers_are_named() -> None:
    assert controller_names("cem,shooting") == ["cem", "shooting"]
    with pytest.raises(ValueError, match="there is no controller 'mpc'; known: cem, shooting, pmpo, bc, random"):
        controller_names("cem,mpc")


def test_the_command_prints_the_pairs_and_the_table(run: Path) -> None:
    options = "--controller shooting --episodes 2 --split validation --max-steps 2 --plans 3 --horizon 2 --iterations 1"
    result = command("world", "plan", str(run), *options.split())
    assert result.returncode == 0, result.stderr
    assert "episode   1 shooting" in result.stdout
    for text in ("imagined return", "real return", "gap", "bc", "control_validation.json"):
        assert text in result.stdout
    refused = command("world", "plan", str(run), "--episodes", "99", "--max-steps", "1")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "has 4 episodes of test and not 99" in refused.stderr
