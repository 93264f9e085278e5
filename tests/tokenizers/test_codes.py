"""Codes of pictures, text and rewards: what goes in comes out, and FSQ agrees with an independent implementation.

Run: pytest tests/tokenizers/test_codes.py
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast
from vector_quantize_pytorch import FSQ

from unimodel.config_tokenizers import ImageTokenizerConfig
from unimodel.tokenizers.action import LARGEST_REWARD, REWARD_BINS, reward_codes, reward_values
from unimodel.tokenizers.image import ImageTokenizer
from unimodel.tokenizers.quantizer import FiniteScalarQuantizer
from unimodel.tokenizers.text import encode_text, load_text_tokenizer, train_text_tokenizer
from unimodel.tokenizers.train_image import train_image_tokenizer
from unimodel.vocabulary import CODE_MODALITIES, Modality, Vocabulary

LEVELS = [(8, 6, 5), (5, 5, 5), (4,), (3, 7, 4, 6), (8, 8, 8, 5, 5, 5)]


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_every_code_has_its_own_values_and_comes_back(levels: tuple[int, ...]) -> None:
    quantizer = FiniteScalarQuantizer(levels)
    codes = torch.arange(min(quantizer.num_codes, 20_000))
    values = quantizer.values(codes)
    assert torch.equal(quantizer.codes(values), codes)
    assert len(torch.unique(values, dim=0)) == len(codes)
    assert values.abs().max() <= 1


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_fsq_agrees_with_vector_quantize_pytorch(levels: tuple[int, ...]) -> None:
    ours, theirs = FiniteScalarQuantizer(levels), FSQ(list(levels))
    latents = 3 * torch.randn(1, 4000, len(levels), generator=torch.Generator().manual_seed(0))
    quantised, indices = theirs(latents)
    assert theirs.codebook_size == ours.num_codes
    assert torch.allclose(ours(latents), quantised, atol=1e-6)
    assert torch.equal(ours.codes(ours(latents)), indices.long())
    assert torch.allclose(ours.values(indices.long()).float(), theirs.indices_to_codes(indices), atol=1e-6)
    assert len(torch.unique(indices)) > min(4000, ours.num_codes) / 4, "the comparison covers many codes"


def test_fsq_gradient_is_that_of_the_bound() -> None:
    """Straight through: rounding has no part in the gradient, and no latent is without one."""
    quantizer = FiniteScalarQuantizer((8, 6, 5))
    latents = torch.randn(200, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    quantizer(latents).sum().backward()
    assert latents.grad is not None and (latents.grad > 0).all()


TINY_IMAGES = ImageTokenizerConfig(patch_pixels=4, levels=(4, 3), width=8, steps=3, batch_frames=2)


def random_frames(number: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(number, side, side, 3), dtype=np.uint8)


def test_image_tokenizer_survives_saving(tmp_path) -> None:
    frames = random_frames(5)
    tokenizer = train_image_tokenizer([frames], TINY_IMAGES, 0, lambda step, error: None)
    codes = tokenizer.encode(frames)
    assert codes.shape == (5, 4, 4) and codes.dtype == np.int64 and 0 <= codes.min() and codes.max() < 12
    tokenizer.save(tmp_path / "image")
    loaded = ImageTokenizer.load(tmp_path / "image")
    assert (loaded.encode(frames) == codes).all()
    assert (loaded.decode(codes) == tokenizer.decode(codes)).all()
    assert loaded.decode(codes).shape == frames.shape and loaded.decode(codes).dtype == np.uint8


def test_image_tokenizer_training_is_reproducible_and_leaves_torch_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (
        train_image_tokenizer([random_frames(4)], TINY_IMAGES, s, lambda *_: None).state_dict() for s in (1, 1, 2)
    )
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_patch_local_codes_depend_on_their_patch_only() -> None:
    frames, changed = random_frames(1), random_frames(1)
    changed[0, 12:, 12:] = 255 - changed[0, 12:, 12:]
    tokenizer = ImageTokenizer(TINY_IMAGES.model_copy(update={"levels": (8, 8, 8)})).eval()
    differs = tokenizer.encode(frames)[0] != tokenizer.encode(changed)[0]
    differs[3, 3] = False
    assert not differs.any()


def test_frames_that_do_not_divide_into_patches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 18, 18, 3\).*multiples of 4"):
        ImageTokenizer(TINY_IMAGES).encode(random_frames(2, side=18))


def test_missing_image_tokenizer_names_the_command(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="unimodel tokenizer train"):
        ImageTokenizer.load(tmp_path)


# --- text -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_tokenizer() -> PreTrainedTokenizerFast:
    captions = ["a red ball at c5, facing right", "a grey key at a1", "go to the blue box"] * 5
    return train_text_tokenizer(captions, 300)


@given(text=st.text(max_size=60))
def test_any_text_comes_back(text_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = encode_text(text_tokenizer, text)
    assert text_tokenizer.decode(ids.tolist()) == text
    assert ids.size == 0 or (0 <= ids.min() and ids.max() < len(text_tokenizer))


@pytest.mark.parametrize("text", ["go to the red ball", "  two  spaces \n\t", "naïve 汉字 🙂", " .,!? can't"])
def test_ordinary_text_comes_back(text_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert text_tokenizer.decode(encode_text(text_tokenizer, text).tolist()) == text


def test_text_tokenizer_survives_saving(text_tokenizer: PreTrainedTokenizerFast, tmp_path) -> None:
    text_tokenizer.save_pretrained(tmp_path)
    loaded, text = load_text_tokenizer(tmp_path), "a blue key at c5 🙂"
    assert (encode_text(loaded, text) == encode_text(text_tokenizer, text)).all()
    assert loaded.decode(encode_text(loaded, text).tolist()) == text
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (0, 1, 2)


def test_frequent_words_become_single_tokens(text_tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(encode_text(text_tokenizer, " a grey key")) < len(" a grey key") / 2


def test_vocabulary_too_small_for_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vocabulary_size \(200\) must be at least 259"):
        train_text_tokenizer(["a"], 200)


# --- rewards and the vocabulary -------------------------------------------------------------------------------------


def test_reward_bins_come_back() -> None:
    codes = np.arange(REWARD_BINS)
    assert (reward_codes(reward_values(codes)) == codes).all()
    assert reward_values(reward_codes(np.array(0.0))) == 0.0, "no reward is exactly no reward"


@given(st.floats(-LARGEST_REWARD, LARGEST_REWARD))
def test_reward_is_within_half_a_bin(reward: float) -> None:
    step = math.log1p(LARGEST_REWARD) / ((REWARD_BINS - 1) // 2)
    back = float(reward_values(reward_codes(np.array(reward))))
    assert abs(np.sign(back) * math.log1p(abs(back)) - np.sign(reward) * math.log1p(abs(reward))) <= step / 2 + 1e-9


def test_rewards_beyond_the_range_take_the_last_bin() -> None:
    assert reward_codes(np.array([-1e9, 1e9])).tolist() == [0, REWARD_BINS - 1]


sizes = st.integers(0, 300)


@given(st.builds(Vocabulary, st.integers(1, 600), sizes, sizes, sizes, sizes, sizes))
def test_ranges_follow_each_other_without_gap_or_overlap(vocabulary: Vocabulary) -> None:
    position = 0
    for modality in (Modality.TEXT, Modality.SPECIAL, *CODE_MODALITIES):
        ids = vocabulary.range_of(modality)
        assert (ids.start, len(ids)) == (position, vocabulary.size_of(modality))
        codes = np.arange(len(ids))
        assert (vocabulary.codes(modality, vocabulary.ids(modality, codes)) == codes).all()
        position = ids.stop
    assert vocabulary.used_size == position <= vocabulary.size and vocabulary.size % 128 == 0


@pytest.mark.parametrize("code", [-1, 7])
def test_code_outside_its_range_is_refused(code: int) -> None:
    with pytest.raises(ValueError, match=rf"action code {code} is outside 0\.\.6"):
        Vocabulary(300, action_size=7).ids(Modality.ACTION, np.array([0, code]))
