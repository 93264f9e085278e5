"""Sound to codes and back: what is learnt beats constants on sounds it never heard.

Run: pytest tests/tokenizers/test_audio.py
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unimodel.config_tokenizers import AudioTokenizerConfig
from unimodel.tokenizers.audio import AudioTokenizer, LogMel, mel_filters
from unimodel.tokenizers.train_audio import train_audio_tokenizer

TINY = AudioTokenizerConfig(sample_rate=8000, hop_samples=160, codes_per_hop=2, width=64, steps=250, batch_hops=256)


def melody(seed: int, seconds: float = 2.0, rate: int = 8000) -> np.ndarray:
    """float32 [samples]: notes of an eighth of a second, each of three harmonics and a falling loudness."""
    rng = np.random.default_rng(seed)
    time = np.arange(rate // 8) / rate
    notes = []
    for _ in range(round(seconds * 8)):
        pitch = 220.0 * 2 ** (rng.integers(24) / 12)
        notes.append(sum(np.sin(2 * np.pi * pitch * k * time) / k for k in (1, 2, 3)) * np.exp(-6 * time) * 0.3)
    return np.concatenate(notes).astype(np.float32)


@functools.cache
def trained(seed: int = 0) -> AudioTokenizer:
    return train_audio_tokenizer([melody(s) for s in range(12)], TINY, seed, lambda step, lost: None)


def test_mel_bands_cover_every_frequency_and_a_tone_stands_in_its_own() -> None:
    filters = mel_filters(8000, 640, 40)
    assert filters.shape == (321, 40) and torch.allclose(filters.sum(dim=1), torch.ones(321))
    tone = torch.sin(2 * torch.pi * 1000 / 8000 * torch.arange(160 * 20))[None]
    loudest = LogMel(8000, 160, 40)(tone)[0, :, 5:-5].mean(dim=1).argmax()
    peak = 2595 * np.log10(1 + 1000 / 700) / (2595 * np.log10(1 + 4000 / 700)) * 41 - 1
    assert abs(int(loudest) - peak) <= 1


def test_a_sound_made_from_spectra_has_these_spectra() -> None:
    mel = LogMel(8000, 160, 64)
    spectra = mel(torch.from_numpy(melody(3))[None])
    made = mel(mel.invert(spectra))
    lost = float((made - spectra).square().mean() / spectra.var())
    assert made.shape == spectra.shape and lost < 0.1, "phases that fit were found"
    assert float(mel.invert(mel(torch.zeros(1, 1600))).abs().max()) < 1e-3, "silence stays silent"


def test_unheard_melodies_come_back_closer_than_any_constant_and_than_shuffled_codes() -> None:
    tokenizer = trained()
    sound = melody(99)
    codes = tokenizer.encode(sound)
    assert codes.shape == (len(sound) // 160, 2) and 0 <= codes.min() and codes.max() < tokenizer.num_codes
    spectra = tokenizer.mel(torch.from_numpy(sound)[None])

    def lost(kept: np.ndarray) -> float:
        heard = tokenizer.mel(torch.from_numpy(tokenizer.decode(kept))[None])
        return float((spectra - heard).square().mean() / spectra.var())

    assert lost(codes) < 0.35, "the best constant loses 1"
    assert lost(codes) < 0.5 * lost(codes[np.random.default_rng(0).permutation(len(codes))])
    assert len(np.unique(codes)) > 20


def test_training_is_a_pure_function_of_its_seed() -> None:
    again = train_audio_tokenizer([melody(s) for s in range(12)], TINY, 0, lambda step, lost: None)
    assert all(
        torch.equal(a, b) for a, b in zip(trained().state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    trained().save(tmp_path)
    assert np.array_equal(AudioTokenizer.load(tmp_path).encode(melody(5)), trained().encode(melody(5)))
    with pytest.raises(FileNotFoundError, match="unimodel tokenizer train"):
        AudioTokenizer.load(tmp_path / "none")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 50_000), st.integers(1000, 96_000), st.integers(1, 2), st.none() | st.integers(1, 40))
def test_any_sound_is_fitted_to_whole_hops(samples: int, rate: int, channels: int, hops: int | None) -> None:
    tokenizer = AudioTokenizer(TINY)
    audio = np.full((samples, channels), 0.25, dtype=np.float32)
    fitted = tokenizer.fitted(audio, rate, hops)
    expected = max(1, round(samples / rate * 8000 / 160)) if hops is None else hops
    assert fitted.shape == (expected * 160,) and fitted.dtype == np.float32 and np.isfinite(fitted).all()


def test_resampling_keeps_the_pitch_in_place() -> None:
    """A second at 30,720 Hz, then at 8,000 Hz: the same number of cycles."""
    time = np.arange(30_720) / 30_720
    fitted = AudioTokenizer(TINY).fitted(np.sin(2 * np.pi * 100 * time)[:, None].astype(np.float32), 30_720)
    assert len(fitted) == 8000
    expected = np.sin(2 * np.pi * 100 * np.arange(8000) / 8000)
    assert np.abs(fitted - expected)[200:-200].max() < 0.02, "a filter's ripple"


def test_part_of_a_hop_is_refused() -> None:
    with pytest.raises(ValueError, match="a multiple of 160"):
        AudioTokenizer(TINY).encode(np.zeros(161, dtype=np.float32))
