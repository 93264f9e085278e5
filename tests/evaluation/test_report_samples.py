"""The report's pictures line up: the right action over every frame, the right verdict under it.

The model is replaced by an oracle (or by one that ignores the action), so what must stand on the page is known.
Run: pytest tests/evaluation/test_report_samples.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data_pipelines.sources.episode import Episode
from data_pipelines.sources.play import Rules, play_episodes
from data_pipelines.sources.policies import load_players, scripted_policy
from unimodel.evaluation import report_samples
from unimodel.evaluation.held_out import HeldOut
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.world.state import WorldState

ENVIRONMENT = "BabyAI-GoToLocalS8N3-v0"
NAMES = ["left", "right", "forward", "pickup", "drop", "toggle", "done"]
STEPS = 4


class Codebook:
    """A stand-in for the image tokenizer: a picture's code is its number in a list."""

    def __init__(self) -> None:
        self.pictures: list[np.ndarray] = []

    def encode(self, frames: np.ndarray) -> np.ndarray:
        self.pictures.extend(frames)
        numbers = np.arange(len(self.pictures) - len(frames), len(self.pictures))
        return numbers[:, None, None]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return np.stack([self.pictures[int(code)] for code in codes[:, 0, 0]])


def _held_out(codebook: Codebook, episode: Episode) -> HeldOut:
    nothing = np.zeros(0, dtype=np.int64)
    codes = codebook.encode(episode.frames)
    silence = np.zeros((len(codes), 0), dtype=np.int64)
    tokens = TokenisedEpisode(episode.key, codes, silence, episode.actions, episode.rewards, episode.done, nothing, ())
    return HeldOut([episode], [tokens], {})


def _loaded(codebook: Codebook) -> Any:
    config = SimpleNamespace(
        evaluation=SimpleNamespace(horizons=(1, STEPS)),
        data=SimpleNamespace(recording=SimpleNamespace(image_size=64)),
    )
    return SimpleNamespace(bundle=SimpleNamespace(image=codebook), config=config)


NextCode = Callable[[WorldState, int], np.ndarray]


def steps_with(next_code: NextCode) -> Callable[..., list[WorldState]]:
    """Rolls worlds out with `next_code(world, action)` instead of a model."""

    def roll_out(loaded: object, worlds: Sequence[WorldState], actions: np.ndarray) -> list[WorldState]:
        for column in actions.T.tolist():
            worlds = [w.stepped(action, next_code(w, action)) for w, action in zip(worlds, column, strict=True)]
        return list(worlds)

    return roll_out


@pytest.fixture(scope="module")
def episode() -> Episode:
    players = load_players([{"kind": "bot", "random_action_fraction": 0.9}], scripted_policy)
    recorded = play_episodes(ENVIRONMENT, range(100, 120), players, Rules(12, 64))
    return next(one for one in recorded if one.num_steps >= 8)


def test_film_of_a_perfect_model_repeats_the_real_frames(episode: Episode, monkeypatch: pytest.MonkeyPatch) -> None:
    codebook = Codebook()
    held_out = _held_out(codebook, episode)
    codes = held_out.tokens[0].frames
    monkeypatch.setattr(report_samples, "roll_out", steps_with(lambda world, _: codes[len(world.frames)]))
    (film,) = report_samples.rollouts(_loaded(codebook), held_out, NAMES)
    assert [shot.source for shot in film.made] == [shot.source for shot in film.real]
    assert [shot.source for shot in film.real] == [
        report_samples.picture(f, "").source for f in episode.frames[: STEPS + 2]
    ]
    assert film.columns == ("start", *(NAMES[action] for action in episode.actions[: STEPS + 1]))
    assert [shot.note for shot in film.made] == ["given"] * 2 + ["1/1"] * STEPS
    assert [shot.good for shot in film.made] == [None] * 2 + [True] * STEPS


def test_frames_that_differ_are_marked(episode: Episode, monkeypatch: pytest.MonkeyPatch) -> None:
    codebook = Codebook()
    held_out = _held_out(codebook, episode)
    frozen = held_out.tokens[0].frames[0]
    monkeypatch.setattr(report_samples, "roll_out", steps_with(lambda world, _: frozen))
    (film,) = report_samples.rollouts(_loaded(codebook), held_out, NAMES)
    assert [(shot.note, shot.good) for shot in film.made[2:]] == [("0/1", False)] * STEPS


def test_counterfactual_tells_obedience_from_ignorance(episode: Episode, monkeypatch: pytest.MonkeyPatch) -> None:
    codebook = Codebook()
    held_out, loaded = _held_out(codebook, episode), _loaded(codebook)
    _, state = report_samples._branching_state(loaded, held_out)
    real, classes = state.frames, state.classes
    outcomes = codebook.encode(real)
    monkeypatch.setattr(report_samples, "roll_out", steps_with(lambda _, action: outcomes[action]))
    _, film = report_samples.counterfactual(loaded, held_out, NAMES)
    assert film.columns == tuple(NAMES) and [shot.note for shot in film.made] == ["obeys"] * len(NAMES)
    assert [shot.source for shot in film.made] == [shot.source for shot in film.real]

    monkeypatch.setattr(report_samples, "roll_out", steps_with(lambda *_: outcomes[0]))
    _, film = report_samples.counterfactual(loaded, held_out, NAMES)
    assert [shot.good for shot in film.made] == (classes == classes[0]).tolist()
    assert {shot.note for shot in film.made if not shot.good} == {"looks like left"}


def test_reconstruction_shows_the_decoded_frame_with_its_psnr(episode: Episode) -> None:
    codebook = Codebook()
    (pair,) = report_samples.reconstructions(_loaded(codebook).bundle, _held_out(codebook, episode))
    assert pair.made is not None and pair.made.source == pair.real.source and pair.made.note == "decoded, exact"
