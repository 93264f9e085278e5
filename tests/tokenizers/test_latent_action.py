"""Latent actions: codes that mean what was done, for films alone or in place of what is known.

Run: pytest tests/tokenizers/test_latent_action.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_square import walk
from tiny_run import tiny_run

from data_pipelines.sources.sample import UNKNOWN_ACTION, Sample
from unimodel.config_tokenizers import LatentActionConfig
from unimodel.evaluation.image_metrics import psnr
from unimodel.evaluation.latent_actions import adjusted_mutual_information, best_map
from unimodel.tokenizers.bundle import TokenizerBundle
from unimodel.tokenizers.codebook import Codebook
from unimodel.tokenizers.latent_action import LatentActionModel
from unimodel.tokenizers.prepare import load_run_bundle
from unimodel.tokenizers.tokenise import tokenise_sample
from unimodel.tokenizers.train_latent_action import train_latent_actions
from unimodel.vocabulary import Modality

SETTINGS = LatentActionConfig(steps=300, width=24)


@pytest.fixture(scope="module")
def model() -> LatentActionModel:
    rng = np.random.default_rng(0)
    films = [walk(rng)[0] for _ in range(60)]
    return train_latent_actions([films], SETTINGS, 0, lambda step, left: None)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> TokenizerBundle:
    """Of played episodes."""
    return load_run_bundle(tiny_run(tmp_path_factory.mktemp("played"), stages=("masked",)).run)


def test_codes_tell_what_was_done(model: LatentActionModel) -> None:
    """On walks that it has not seen: all five deeds have codes, and no code stands for two of them."""
    seen = [walk(np.random.default_rng(100 + number)) for number in range(30)]
    codes = np.concatenate([model.codes(frames) for frames, _ in seen])
    done = np.concatenate([done for _, done in seen])
    told, majority = best_map(codes, done, np.repeat(np.arange(30), 12))
    assert (told == done).mean() > 0.9 and (majority == done).mean() < 0.5
    assert adjusted_mutual_information(codes, done) > 0.8
    assert model.num_codes == 8 and 5 <= len(np.unique(codes)) <= 8


def test_a_picture_obeys_the_code(model: LatentActionModel) -> None:
    frames, _ = walk(np.random.default_rng(7), steps=60)
    codes = model.codes(frames)
    others = np.random.default_rng(0).integers(8, size=60)
    inferred, random, copied = (
        psnr(frames[1:], drawn)
        for drawn in (model.drawn(frames[:-1], codes), model.drawn(frames[:-1], others), frames[:-1])
    )
    assert inferred > copied + 8 and inferred > random + 8
    assert (model.codes_to(frames[0], frames[1:]) == [model.codes(frames[[0, i]])[0] for i in range(1, 61)]).all()


def test_it_survives_its_folder(model: LatentActionModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    frames, _ = walk(np.random.default_rng(3))
    assert (LatentActionModel.load(tmp_path).codes(frames) == model.codes(frames)).all()
    assert (model.codes(frames[:4]) == model.codes(frames)[:3]).all(), "a code depends on its two frames alone"
    assert model.codes(frames[:1]).shape == (0,)


def test_the_same_films_and_seed_give_the_same_weights_whatever_came_before() -> None:
    """A training that was killed begins again, and ends with the same codes."""
    films, config = [walk(np.random.default_rng(0))[0]], LatentActionConfig(steps=6, width=8)
    one = train_latent_actions([films], config, 5, lambda step, left: None)
    torch.rand(3)
    other = train_latent_actions([films], config, 5, lambda step, left: None)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_every_part_learns() -> None:
    """Gradients go through the codebook to the encoder, and the codes follow the latents."""
    films = [walk(np.random.default_rng(0))[0]]
    ends = [
        train_latent_actions([films], LatentActionConfig(steps=steps, width=8), 5, lambda step, left: None)
        for steps in (4, 12)
    ]
    before, after = (end.state_dict() for end in ends)
    assert not [name for name in before if torch.equal(before[name], after[name])]


def test_a_code_that_nothing_chooses_moves_to_where_none_is() -> None:
    book = Codebook(3, 2)
    latents = torch.tensor([[0.0, 0.0], [0.0, 1.0], [5.0, 5.0], [5.0, 6.0]])
    book.place(latents, np.random.default_rng(0))
    assert book.codes(latents)[0] != book.codes(latents)[2]
    shifted = latents + torch.tensor([0.0, 20.0])  # all of them nearest to one code now
    for _ in range(300):
        book.follow(shifted)
    assert len(set(book.codes(shifted).tolist())) == 3
    assert (book(shifted) - shifted).norm(dim=1).max() < 1.0


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


def test_films_get_codes_after_those_of_real_actions(model: LatentActionModel, bundle: TokenizerBundle) -> None:
    real = bundle.vocabulary.action_size
    sizes = replace(bundle.vocabulary, action_size=real + model.num_codes)
    latent = replace(bundle, vocabulary=sizes, latent_action=model)
    frames, done = walk(np.random.default_rng(5))
    unknown = np.full(len(done), UNKNOWN_ACTION)
    assert (tokenise_sample(sample(frames, unknown), latent).actions == real + model.codes(frames)).all()
    assert (tokenise_sample(sample(frames, done), latent).actions == done).all(), "what is known stays"
    assert (tokenise_sample(sample(frames, unknown), bundle).actions == UNKNOWN_ACTION).all()
    ids = sizes.ids(Modality.ACTION, tokenise_sample(sample(frames, unknown), latent).actions)
    assert ids.max() < sizes.range_of(Modality.REWARD).start
    assert latent.action_names(("left", "right"))[-2:] == ("latent_6", "latent_7")
    assert len(latent.action_names(("left", "right"))) == sizes.action_size
    assert latent.knows_real_actions and latent.alternatives(7) == range(7)
    assert latent.alternatives(0) == range(real, real + 8)


def test_codes_may_replace_what_is_known(model: LatentActionModel, bundle: TokenizerBundle) -> None:
    hiding = LatentActionModel(SETTINGS.model_copy(update={"replace_known": True})).eval()
    hiding.load_state_dict(model.state_dict())
    latent = replace(bundle, vocabulary=replace(bundle.vocabulary, action_size=8), latent_action=hiding)
    frames, done = walk(np.random.default_rng(5))
    assert (tokenise_sample(sample(frames, done), latent).actions == model.codes(frames)).all()
    assert not latent.knows_real_actions and latent.alternatives(7) == range(8)
    assert latent.action_names(("left", "right"))[:2] == ("latent_0", "latent_1")
