"""Latent actions: what happened between two pictures, as one of a few codes, learnt from pictures alone.

An encoder sees both pictures and may say one of a few codes; a decoder sees the earlier one and this code, and draws
the later one. What it cannot know from the earlier picture is what the code has to tell (Genie, arXiv 2402.15391,
section 2.1; pixels in, as there, and not tokens). A model that plays needs neither: codes are tokens as other actions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unimodel.config_tokenizers import LatentActionConfig
from unimodel.tokenizers.codebook import Codebook
from unimodel.tokenizers.image import to_uint8, to_unit
from unimodel.tokenizers.residual import Residual

WEIGHTS_FILE = "latent_action.safetensors"
CONFIG_FILE = "latent_action.json"
PAIRS_AT_ONCE = 128
DIMS = 8
"""Of a latent."""


class LatentActionModel(nn.Module):
    """uint8 frames [T + 1, height, width, 3] -> codes [T]. Axis names: pairs, height, width (pixels), dims (latent)."""

    def __init__(self, config: LatentActionConfig) -> None:
        super().__init__()
        self.config = config
        patch, width = config.patch_pixels, config.width
        self.encoder = nn.Sequential(nn.Conv2d(6, width, patch, stride=patch), Residual(width, 3), Residual(width, 3))
        self.head = nn.Linear(2 * width, DIMS)
        self.norm = nn.LayerNorm(DIMS, elementwise_affine=False)
        self.codebook = Codebook(config.num_codes, DIMS)
        self.stem = nn.Conv2d(3, width, patch, stride=patch)
        self.code = nn.Linear(DIMS, width)
        to_pixels = nn.Conv2d(width, 3 * patch * patch, 1)
        nn.init.zeros_(to_pixels.weight)  # it begins with the earlier picture
        nn.init.zeros_(to_pixels.bias)  # pyright: ignore[reportArgumentType]
        self.decoder = nn.Sequential(Residual(width, 3), Residual(width, 3), to_pixels, nn.PixelShuffle(patch))

    @property
    def num_codes(self) -> int:
        return self.codebook.num_codes

    def latents(self, before: Tensor, after: Tensor) -> Tensor:
        """[pairs, dims] of pictures [pairs, 3, height, width], each of mean 0 and deviation 1."""
        features = self.encoder(torch.cat([before, after - before], dim=1))
        return self.norm(self.head(torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)))

    def draw(self, before: Tensor, vectors: Tensor) -> Tensor:
        """The later pictures, from latents or the vectors of their codes [pairs, dims]."""
        return before + self.decoder(self.stem(before) + self.code(vectors)[:, :, None, None])

    @torch.no_grad()
    def codes(self, frames: np.ndarray) -> np.ndarray:
        """int64 [T] what happened between neighbours. Raises ValueError when frames do not divide into patches."""
        patch = self.config.patch_pixels
        if frames.shape[1] % patch or frames.shape[2] % patch:
            raise ValueError(
                f"frames of shape {frames.shape} do not fit the latent actions: height and width must be multiples of "
                f"{patch}"
            )
        pixels, found = torch.from_numpy(np.array(frames)), [np.zeros(0, dtype=np.int64)]
        for start in range(0, len(frames) - 1, PAIRS_AT_ONCE):
            some = to_unit(pixels[start : start + PAIRS_AT_ONCE + 1])
            found.append(self.codebook.codes(self.latents(some[:-1], some[1:])).numpy())
        return np.concatenate(found)

    def codes_to(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """int64 [n] what leads from one picture [height, width, 3] to each of `after` [n, height, width, 3]."""
        return np.array([int(self.codes(np.stack([before, frame]))[0]) for frame in after], dtype=np.int64)

    @torch.no_grad()
    def drawn(self, before: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """uint8 pictures that would follow `before` [pairs, height, width, 3] by these codes [pairs]."""
        vectors = self.codebook.vectors[torch.from_numpy(np.asarray(codes, dtype=np.int64))]
        pairs = zip(torch.from_numpy(np.array(before)).split(PAIRS_AT_ONCE), vectors.split(PAIRS_AT_ONCE), strict=True)
        return torch.cat([to_uint8(self.draw(to_unit(some), z)) for some, z in pairs]).numpy()

    def save(self, folder: Path) -> None:
        """Writes weights (safetensors) and config (JSON) into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(self.config.model_dump_json(indent=2), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> LatentActionModel:
        """Loads what `save` wrote, in evaluation mode."""
        model = LatentActionModel(
            LatentActionConfig.model_validate_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        )
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return model.eval()
