"""Sound: an autoencoder of MDCT spectra with finite scalar quantisation, a few codes per hop.

The modified discrete cosine transform (Princen and Bradley 1986) with a sine window is exactly invertible and has as
many coefficients as samples, so there is no phase to guess and decoding is one transform: all loss is the quantiser's.
Coefficients span five orders of magnitude; they are squeezed by asinh before they are compared.
Axis names: samples, hops, codes.
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

from unimodel.config import AudioTokenizerConfig
from unimodel.tokenizers.quantizer import FiniteScalarQuantizer

WEIGHTS_FILE = "audio_tokenizer.safetensors"
CONFIG_FILE = "audio_tokenizer.json"
LOUDNESS_UNIT = 1e-3
"""Coefficients much smaller than this count in proportion, much larger ones by their logarithm."""
FINEST_RATIO = 1000
"""Resampling ratios are rounded to fractions with at most this denominator; what that moves is cut or padded."""


class Mdct(nn.Module):
    """float [..., samples] <-> coefficients [..., hops, hop_samples]; exact but for the halves of the first and last
    window, which are padded with silence."""

    basis: Tensor

    def __init__(self, hop_samples: int) -> None:
        super().__init__()
        self.hop_samples = hop_samples
        n, k = torch.arange(2 * hop_samples, dtype=torch.float64), torch.arange(hop_samples, dtype=torch.float64)
        phase = math.pi / hop_samples * (n[:, None] + 0.5 + hop_samples / 2) * (k[None, :] + 0.5)
        window = torch.sin(math.pi / (2 * hop_samples) * (n + 0.5))
        basis = math.sqrt(2 / hop_samples) * window[:, None] * torch.cos(phase)
        self.register_buffer("basis", basis.float(), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """A sound of h hops gives h + 1 spectra: window i spans hops i - 1 and i."""
        hop = self.hop_samples
        return nn.functional.pad(samples, (hop, hop)).unfold(-1, 2 * hop, hop) @ self.basis

    def inverse(self, coefficients: Tensor) -> Tensor:
        """[..., h + 1 spectra, hop_samples] to [..., h * hop_samples]."""
        hop = self.hop_samples
        windows = coefficients @ self.basis.T
        overlapped = windows[..., :-1, hop:] + windows[..., 1:, :hop]
        return overlapped.flatten(-2)


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
    """float [samples] <-> codes [hops, codes_per_hop]; a hop's codes describe the spectrum that ends with it."""

    def __init__(self, config: AudioTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        hop, width, dims = config.hop_samples, config.width, config.codes_per_hop * len(config.levels)
        self.mdct = Mdct(hop)
        self.quantizer = FiniteScalarQuantizer(config.levels)
        self.encoder = nn.Sequential(nn.Conv1d(hop, width, 1), _Residual(width), _Residual(width))
        self.to_latents = nn.Conv1d(width, dims, 1)
        self.decoder = nn.Sequential(nn.Conv1d(dims, width, 1), _Residual(width), _Residual(width))
        self.to_spectra = nn.Conv1d(width, hop, 1)

    @property
    def num_codes(self) -> int:
        return self.quantizer.num_codes

    def spectra(self, samples: Tensor) -> Tensor:
        """float [sounds, h * hop_samples] to squeezed spectra [sounds, hop_samples, h]; the last half window is left
        out, so that there are as many spectra as hops."""
        return torch.asinh(self.mdct(samples)[..., :-1, :] / LOUDNESS_UNIT).movedim(-1, -2)

    def forward(self, spectra: Tensor) -> Tensor:
        """Squeezed spectra [sounds, hop_samples, hops] to their reconstruction, differentiable."""
        quantised = self.quantizer(self._latents(spectra))
        return self._from_quantised(quantised)

    @torch.no_grad()
    def encode(self, samples: np.ndarray) -> np.ndarray:
        """float [samples] to int64 codes [hops, codes_per_hop]. Raises ValueError unless whole hops are given."""
        if samples.ndim != 1 or not len(samples) or len(samples) % self.config.hop_samples:
            raise ValueError(
                f"a sound of shape {samples.shape} does not fit the audio tokenizer: it needs [samples], a multiple "
                f"of {self.config.hop_samples}"
            )
        tensor = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32)).to(self.mdct.basis.device)
        return self.quantizer.codes(self.quantizer(self._latents(self.spectra(tensor[None]))))[0].cpu().numpy()

    @torch.no_grad()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int [hops, codes_per_hop] to float32 [hops * hop_samples]."""
        values = self.quantizer.values(torch.from_numpy(np.asarray(codes, dtype=np.int64)).to(self.mdct.basis.device))
        spectra = self._from_quantised(values.float()[None])
        coefficients = torch.sinh(spectra.clamp(-12, 12)).movedim(-1, -2) * LOUDNESS_UNIT
        return self.mdct.inverse(nn.functional.pad(coefficients, (0, 0, 0, 1)))[0].clamp(-1, 1).cpu().numpy()

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
        """[sounds, hop_samples, hops] to [sounds, hops, codes_per_hop, dims]."""
        latents = self.to_latents(self.encoder(spectra)).movedim(1, -1)
        return latents.unflatten(-1, (self.config.codes_per_hop, -1))

    def _from_quantised(self, quantised: Tensor) -> Tensor:
        return self.to_spectra(self.decoder(quantised.flatten(-2).movedim(-1, 1)))
