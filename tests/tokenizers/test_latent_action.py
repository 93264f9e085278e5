"""Latent actions: codes that mean what was done, for films alone, beside the codes of real actions.

Run: pytest tests/tokenizers/test_latent_action.py
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_run import tiny_run

from data_pipelines.sources.sample import UNKNOWN_ACTION, Sample
from unimodel.config_tokenizers import LatentActionConfig
from unimodel.evaluation.image_metrics import psnr
from unimodel.evaluation.latent_actions import mutual_information
from unimodel.tokenizers.bundle import TokenizerBundle
from unimodel.tokenizers.latent_action import LatentActionModel
from unimodel.tokenizers.prepare import load_run_bundle
from unimodel.tokenizers.tokenise import tokenise_sample
from unimodel.tokenizers.train_latent_action import train_latent_actions
from unimodel.vocabulary import Modality, Vocabulary

MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0), (0, 0))
STAY, CELLS, PIXELS = 4, 4, 8


def film(rng: np.random.Generator, steps: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """A square that goes one cell in one of four directions, or stays: frames [steps + 1], and what it did [steps]."""
    where, done, frames = rng.integers(CELLS, size=2), [], []
    for move in [*rng.integers(len(MOVES), size=steps), STAY]:
        frame = np.full((CELLS * PIXELS, CELLS * PIXELS, 3), 30, dtype=np.uint8)
        top, left = (where * PIXELS).tolist()
        frame[top + 1 : top + 7, left + 1 : left + 7] = (220, 60, 60)
        frames.append(frame)
        moved = np.clip(where + MOVES[move], 0, CELLS - 1)
        done.append(move if (moved != where).any() else STAY)
        where = moved
    return np.stack(frames), np.array(done[:-1])


@pytest.fixture(scope="module")
def model() -> LatentActionModel:
    rng = np.random.default_rng(0)
    films = [film(rng)[0] for _ in range(60)]
    return train_latent_actions([films], LatentActionConfig(steps=300, width=24), 0, lambda step, left: None)


def test_codes_tell_what_was_done(model: LatentActionModel) -> None:
    """On films that it has not seen: nearly always the same code for the same deed, and no code for two of them."""
    seen = [film(np.random.default_rng(100 + number)) for number in range(30)]
    codes = np.concatenate([model.codes(frames) for frames, _ in seen])
    done = np.concatenate([done for _, done in seen])
    most_frequent = {code: np.bincount(done[codes == code]).argmax() for code in np.unique(codes)}
    assert np.mean([most_frequent[code] for code in codes] == done) > 0.95
    assert mutual_information(codes, done) > 0.8
    assert set(codes.tolist()) <= set(range(model.num_codes)) and model.num_codes == 8


def test_a_picture_obeys_the_code(model: LatentActionModel) -> None:
    frames, _ = film(np.random.default_rng(7), steps=60)
    codes = model.codes(frames)
    others = np.random.default_rng(0).integers(8, size=60)
    inferred, random, copied = (
        psnr(frames[1:], drawn)
        for drawn in (model.drawn(frames[:-1], codes), model.drawn(frames[:-1], others), frames[:-1])
    )
    assert inferred > copied + 8 and inferred > random + 8


def test_it_survives_its_folder(model: LatentActionModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    frames, _ = film(np.random.default_rng(3))
    assert (LatentActionModel.load(tmp_path).codes(frames) == model.codes(frames)).all()
    assert (model.codes(frames[:4]) == model.codes(frames)[:3]).all(), "a code depends on its two frames alone"
    assert model.codes(frames[:1]).shape == (0,)


def test_what_cannot_be_told_from_is_refused() -> None:
    still = [np.zeros((5, 16, 16, 3), dtype=np.uint8)]
    config = LatentActionConfig(steps=1)
    with pytest.raises(ValueError, match="no two neighbouring frames of the data differ"):
        train_latent_actions([still], config, 0, lambda step, left: None)
    odd = np.random.default_rng(0).integers(255, size=(3, 20, 16, 3)).astype(np.uint8)
    with pytest.raises(ValueError, match="height and width must be multiples of 8"):
        train_latent_actions([[odd]], config, 0, lambda step, left: None)


def sample(frames: np.ndarray, actions: np.ndarray) -> Sample:
    steps = len(actions)
    return Sample(
        key="film",
        frames=frames,
        audio=np.zeros((0, 1), dtype=np.float32),
        audio_rate=0,
        seconds_per_frame=0.0,
        captions=("",),
        mission="",
        actions=actions,
        rewards=np.full(steps, np.nan, dtype=np.float32),
        done=np.zeros(steps, dtype=np.bool_),
        num_actions=0,
    )


def test_films_alone_get_codes_after_those_of_real_actions(model: LatentActionModel, tmp_path: Path) -> None:
    bundle = load_run_bundle(tiny_run(tmp_path, stages=("masked",)).run)
    real = bundle.vocabulary.action_size
    sizes = replace(bundle.vocabulary, action_size=real + model.num_codes)
    latent = replace(bundle, vocabulary=sizes, latent_action=model)
    frames, done = film(np.random.default_rng(5))
    unknown = np.full(len(done), UNKNOWN_ACTION)
    assert (tokenise_sample(sample(frames, unknown), latent).actions == real + model.codes(frames)).all()
    assert (tokenise_sample(sample(frames, done), latent).actions == done).all(), "what is known stays"
    assert (tokenise_sample(sample(frames, unknown), bundle).actions == UNKNOWN_ACTION).all()
    ids = sizes.ids(Modality.ACTION, tokenise_sample(sample(frames, unknown), latent).actions)
    assert ids.max() < sizes.range_of(Modality.REWARD).start


def test_mutual_information_of_known_cases() -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    assert mutual_information(labels, (labels + 1) % 3) == pytest.approx(1.0)
    assert mutual_information(labels, np.zeros(6, dtype=int)) == 0.0
    assert mutual_information(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(0.0, abs=1e-12)
    halves = mutual_information(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3]))
    assert halves == pytest.approx(math.log(2) / math.sqrt(math.log(2) * math.log(4)))


def test_the_vocabulary_of_a_bundle_without_them_is_as_before() -> None:
    assert TokenizerBundle.__dataclass_fields__["latent_action"].default is None
    assert Vocabulary(text_size=5).action_size == 0
