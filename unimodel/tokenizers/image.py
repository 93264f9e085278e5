"""Images: an autoencoder with finite scalar quantisation, one code per patch.

Axis names: frames, height, width (pixels), rows, columns (patches).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unimodel.config_tokenizers import ImageTokenizerConfig
from unimodel.tokenizers.quantizer import FiniteScalarQuantizer
from unimodel.tokenizers.residual import Residual

WEIGHTS_FILE = "image_tokenizer.safetensors"
CONFIG_FILE = "image_tokenizer.json"


class ImageTokenizer(nn.Module):
    """uint8 frames [frames, height, width, 3] <-> codes [frames, rows, columns]."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        patch, width, dims = config.patch_pixels, config.width, len(config.levels)
        kernel = 1 if config.patch_local else 3
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, patch, stride=patch),
            Residual(width, kernel),
            Residual(width, kernel),
            nn.Conv2d(width, dims, 1),
        )
        self.quantizer = FiniteScalarQuantizer(config.levels)
        self.decoder = nn.Sequential(
            nn.Conv2d(dims, width, 1),
            Residual(width, kernel),
            Residual(width, kernel),
            nn.Conv2d(width, 3 * patch * patch, 1),
            nn.PixelShuffle(patch),
        )

    @property
    def num_codes(self) -> int:
        return self.quantizer.num_codes

    def forward(self, pixels: Tensor) -> Tensor:
        """float [frames, 3, height, width] in [0, 1] to its reconstruction, differentiable."""
        return self.decoder(self.quantizer(self.encoder(pixels).movedim(1, -1)).movedim(-1, 1))

    def forward_blurred(self, pixels: Tensor) -> Tensor:
        """As `forward` with noise instead of rounding in a random half of the frames.

        Rounding alone leaves unlike patches in one cell, where no gradient tells them apart; noise drives their
        latents more than a cell away from each other.
        """
        latents = self.encoder(pixels).movedim(1, -1)
        is_blurred = torch.rand(len(pixels), 1, 1, 1) < 0.5
        blurred = self.quantizer.blurred(latents, torch.rand_like(latents) - 0.5)
        return self.decoder(torch.where(is_blurred, blurred, self.quantizer(latents)).movedim(-1, 1))

    @torch.no_grad()
    def encode(self, frames: np.ndarray) -> np.ndarray:
        """int64 codes. Raises ValueError when the frames do not divide into patches."""
        frames = np.asarray(frames)
        patch = self.config.patch_pixels
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.shape[1] % patch or frames.shape[2] % patch:
            raise ValueError(
                f"frames of shape {frames.shape} do not fit the image tokenizer: it needs [frames, height, width, 3] "
                f"with height and width multiples of {patch}"
            )
        device = next(self.parameters()).device
        batches = torch.from_numpy(np.array(frames)).split(256)
        codes = [
            self.quantizer.codes(self.quantizer(self.encoder(to_unit(b.to(device))).movedim(1, -1))) for b in batches
        ]
        return torch.cat(codes).cpu().numpy()

    @torch.no_grad()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """uint8 frames from codes."""
        device = next(self.parameters()).device
        batches = torch.from_numpy(np.asarray(codes, dtype=np.int64)).split(256)
        frames = [to_uint8(self.decoder(self.quantizer.values(b.to(device)).float().movedim(-1, 1))) for b in batches]
        return torch.cat(frames).cpu().numpy()

    def save(self, folder: Path) -> None:
        """Writes weights (safetensors) and config (JSON) into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(self.config.model_dump_json(indent=2), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> ImageTokenizer:
        """Loads what `save` wrote, in evaluation mode. Raises FileNotFoundError naming the command that trains one."""
        if not (folder / WEIGHTS_FILE).exists():
            raise FileNotFoundError(f"no image tokenizer in {folder}: run `unimodel tokenizer train CONFIG`")
        config = ImageTokenizerConfig.model_validate_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tokenizer = ImageTokenizer(config)
        tokenizer.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return tokenizer.eval()


def to_unit(frames: Tensor) -> Tensor:
    """uint8 [frames, height, width, 3] to float [frames, 3, height, width] in [0, 1]."""
    return frames.movedim(-1, 1).float() / 255


def to_uint8(pixels: Tensor) -> Tensor:
    """The reverse of `to_unit`, rounded and clipped."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1)
