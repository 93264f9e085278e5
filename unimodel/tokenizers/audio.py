"""Sound: an autoencoder of log-mel spectra with finite scalar quantisation, a few codes per hop.

A codec that keeps waveforms spends nearly all its bits on phases, which nobody hears and no model can predict. So codes
tell how loud which pitch is, and phases are found again when a sound is made (Griffin and Lim 1984, in its fast form,
Perraudin et al. 2013). Axis names: samples, hops, bands, codes.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.signal import resample_poly
from torch import Tensor, nn

from unimodel.config_tokenizers import AudioTokenizerConfig
from unimodel.tokenizers.quantizer import FiniteScalarQuantizer

WEIGHTS_FILE = "audio_tokenizer.safetensors"
CONFIG_FILE = "audio_tokenizer.json"
QUIETEST_DECIBELS = -70.0
"""Loudness, relative to a full-scale tone, below which a band counts as silent."""
SILENT = -0.98
"""Log-mel value up to which no sound is made."""
GRIFFIN_LIM_STEPS = 48
GRIFFIN_LIM_MOMENTUM = 0.99
FINEST_RATIO = 1000
"""Resampling ratios are rounded to fractions with at most this denominator; what that moves is cut or padded."""


def mel_filters(sample_rate: int, window_samples: int, bands: int) -> Tensor:
    """float [frequencies, bands]: triangles whose corners are evenly spaced in mel = 2595 log10(1 + f / 700)
    (O'Shaughnessy 1987), made to sum to 1 at every frequency."""
    corners = 700 * (10 ** (torch.linspace(0, _mel(sample_rate / 2), bands + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.linspace(0, sample_rate / 2, window_samples // 2 + 1, dtype=torch.float64)[:, None]
    low, peak, high = corners[:-2], corners[1:-1], corners[2:]
    triangles = torch.minimum((frequencies - low) / (peak - low), (high - frequencies) / (high - peak)).clamp(min=0)
    triangles[0, 0] = triangles[-1, -1] = 1.0  # the two outermost frequencies belong to the outermost bands
    return (triangles / triangles.sum(dim=1, keepdim=True)).float()


def _mel(frequency: float) -> float:
    return 2595 * math.log10(1 + frequency / 700)


class LogMel(nn.Module):
    """float [sounds, h * hop_samples] <-> log-mel spectra [sounds, bands, h] from -1 (silent) to 1 (full scale)."""

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, hop_samples: int, bands: int) -> None:
        super().__init__()
        self.hop_samples, self.window_samples = hop_samples, 4 * hop_samples
        self.register_buffer("window", torch.hann_window(self.window_samples), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate, self.window_samples, bands), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """Spectrum i is centred on the beginning of hop i; a band is the mean magnitude of its frequencies."""
        magnitudes = self._stft(samples)[..., :-1].abs()
        mel = (magnitudes.movedim(-1, -2) @ (self.filters / self.filters.sum(dim=0).clamp(min=1e-6))).movedim(-1, -2)
        decibels = 20 * mel.clamp(min=1e-9).log10()
        return (1 - 2 * decibels / QUIETEST_DECIBELS).clamp(-1, 1)

    def invert(self, spectra: Tensor) -> Tensor:
        """A sound [sounds, h * hop_samples] with about these spectra."""
        mel = 10 ** ((1 - spectra.clamp(-1, 1)) / 2 * QUIETEST_DECIBELS / 20)
        mel = torch.where(spectra <= SILENT, 0.0, mel)
        magnitudes = (mel.movedim(-1, -2) @ self.filters.T).movedim(-1, -2)
        magnitudes = nn.functional.pad(magnitudes, (0, 1), mode="replicate")
        samples = spectra.shape[-1] * self.hop_samples
        phases = torch.polar(torch.ones_like(magnitudes), _first_phases(magnitudes))
        before = torch.zeros_like(phases)
        for _ in range(GRIFFIN_LIM_STEPS):
            consistent = self._stft(self._istft(magnitudes * phases, samples))
            accelerated = consistent + GRIFFIN_LIM_MOMENTUM * (consistent - before)
            phases, before = accelerated / accelerated.abs().clamp(min=1e-12), consistent
        return self._istft(magnitudes * phases, samples)

    def _stft(self, samples: Tensor) -> Tensor:
        """[sounds, frequencies, hops + 1], in which a full-scale tone has magnitude 1."""
        size, hop = self.window_samples, self.hop_samples
        spectra = torch.stft(samples, size, hop, window=self.window, pad_mode="constant", return_complex=True)
        return spectra * (2 / self.window.sum())

    def _istft(self, spectra: Tensor, samples: int) -> Tensor:
        size, hop = self.window_samples, self.hop_samples
        return torch.istft(spectra * (self.window.sum() / 2), size, hop, window=self.window, length=samples)


def _first_phases(magnitudes: Tensor) -> Tensor:
    """Any will do, the same every time: golden-angle steps along frequencies and hops."""
    place = torch.arange(magnitudes[0].numel(), dtype=torch.float64) * (math.pi * (3 - math.sqrt(5)))
    return (place % (2 * math.pi)).float().reshape(magnitudes.shape[1:]).expand(magnitudes.shape)


class _Residual(nn.Module):
    """x + MLP(norm(x)) over hops; each sees its two neighbours."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(1, width),
            nn.Conv1d(width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(2 * width, width, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


class AudioTokenizer(nn.Module):
    """float [samples] <-> codes [hops, codes_per_hop]."""

    def __init__(self, config: AudioTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        width, dims = config.width, config.codes_per_hop * len(config.levels)
        self.mel = LogMel(config.sample_rate, config.hop_samples, config.bands)
        self.quantizer = FiniteScalarQuantizer(config.levels)
        self.encoder = nn.Sequential(nn.Conv1d(config.bands, width, 1), _Residual(width), _Residual(width))
        self.to_latents = nn.Conv1d(width, dims, 1)
        self.decoder = nn.Sequential(nn.Conv1d(dims, width, 1), _Residual(width), _Residual(width))
        self.to_spectra = nn.Conv1d(width, config.bands, 1)

    @property
    def num_codes(self) -> int:
        return self.quantizer.num_codes

    def forward(self, spectra: Tensor) -> Tensor:
        """Log-mel spectra [sounds, bands, hops] to their reconstruction, differentiable."""
        return self._from_quantised(self.quantizer(self._latents(spectra)))

    @torch.no_grad()
    def encode(self, samples: np.ndarray) -> np.ndarray:
        """float [samples] to int64 codes [hops, codes_per_hop]. Raises ValueError unless whole hops are given."""
        if samples.ndim != 1 or not len(samples) or len(samples) % self.config.hop_samples:
            raise ValueError(
                f"a sound of shape {samples.shape} does not fit the audio tokenizer: it needs [samples], a multiple "
                f"of {self.config.hop_samples}"
            )
        sound = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32)).to(self.mel.window.device)
        return self.quantizer.codes(self.quantizer(self._latents(self.mel(sound[None]))))[0].cpu().numpy()

    @torch.no_grad()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int [hops, codes_per_hop] to float32 [hops * hop_samples]."""
        values = self.quantizer.values(torch.from_numpy(np.asarray(codes, dtype=np.int64)).to(self.mel.window.device))
        return self.mel.invert(self._from_quantised(values.float()[None]))[0].clamp(-1, 1).cpu().numpy()

    def hops_of(self, seconds: float) -> int:
        """Hops that stand for a moment of `seconds`; at least one."""
        return max(1, round(seconds * self.config.sample_rate / self.config.hop_samples))

    def fitted(self, audio: np.ndarray, rate: int, hops: int | None = None) -> np.ndarray:
        """float [samples, channels] at `rate` to mono float32 [hops * hop_samples]; about the tokenizer's own rate when
        `hops` is not given, and exactly so many hops otherwise."""
        mono = audio.mean(axis=1)
        if hops is None:
            hops = self.hops_of(len(mono) / rate)
        wanted = hops * self.config.hop_samples
        ratio = Fraction(wanted, len(mono)).limit_denominator(FINEST_RATIO)
        if ratio <= 0:
            ratio = Fraction(1, FINEST_RATIO)
        resampled = resample_poly(mono, ratio.numerator, ratio.denominator).astype(np.float32)[:wanted]
        return np.pad(resampled, (0, wanted - len(resampled)))

    def save(self, folder: Path) -> None:
        """Writes weights (safetensors) and config (JSON) into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(self.config.model_dump_json(indent=2), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> AudioTokenizer:
        """Loads what `save` wrote, in evaluation mode. Raises FileNotFoundError naming the command that trains one."""
        if not (folder / WEIGHTS_FILE).exists():
            raise FileNotFoundError(f"no audio tokenizer in {folder}: run `unimodel tokenizer train CONFIG`")
        config = AudioTokenizerConfig.model_validate_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tokenizer = AudioTokenizer(config)
        tokenizer.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return tokenizer.eval()

    def _latents(self, spectra: Tensor) -> Tensor:
        """[sounds, bands, hops] to [sounds, hops, codes_per_hop, dims]."""
        latents = self.to_latents(self.encoder(spectra)).movedim(1, -1)
        return latents.unflatten(-1, (self.config.codes_per_hop, -1))

    def _from_quantised(self, quantised: Tensor) -> Tensor:
        return self.to_spectra(self.decoder(quantised.flatten(-2).movedim(-1, 1)))
