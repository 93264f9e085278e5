"""Settings of the tokenizers: how words, pictures and sounds become codes."""

from __future__ import annotations

from pydantic import PositiveInt

from data_pipelines.settings import PositiveFloat, Settings


class TextTokenizerConfig(Settings):
    vocabulary_size: PositiveInt = 512
    """Byte-level BPE tokens, specials included."""


class ImageTokenizerConfig(Settings):
    """FSQ autoencoder (Mentzer et al. 2023, arXiv 2309.15505)."""

    patch_pixels: PositiveInt = 8
    """Pixels per token side: a 64x64 frame is (64 / 8)^2 = 64 tokens."""
    levels: tuple[PositiveInt, ...] = (8, 6, 5)
    """Quantisation levels per latent dimension; the codebook has their product."""
    width: PositiveInt = 96
    patch_local: bool = True
    """Encode each patch by itself, so that equal patches get equal codes. Right for grid worlds and easy on the
    dynamics; photographs want False (3x3 convolutions that mix neighbours)."""
    steps: PositiveInt = 1500
    batch_frames: PositiveInt = 32
    learning_rate: PositiveFloat = 3e-3


class AudioTokenizerConfig(Settings):
    """FSQ autoencoder of log-mel spectra; trained when the data has sound."""

    sample_rate: PositiveInt = 16000
    """Sounds are resampled to it."""
    hop_samples: PositiveInt = 320
    """Samples per spectrum: 20 ms at 16 kHz."""
    codes_per_hop: PositiveInt = 2
    """Tokens per spectrum."""
    bands: PositiveInt = 64
    """Mel bands of a spectrum."""
    levels: tuple[PositiveInt, ...] = (8, 6, 5)
    """Quantisation levels per latent dimension; the codebook has their product."""
    width: PositiveInt = 192
    steps: PositiveInt = 1000
    batch_hops: PositiveInt = 512
    learning_rate: PositiveFloat = 2e-3


class LatentActionConfig(Settings):
    """Inferred actions: one code for what happened between two pictures, for films whose actions nobody knows.

    They are tokens of their own, after those of the known actions."""

    patch_pixels: PositiveInt = 8
    """Pixels per side of the patches that it looks at."""
    num_codes: PositiveInt = 8
    """Few, or a code tells how the picture looks instead of what was done."""
    width: PositiveInt = 48
    steps: PositiveInt = 1600
    batch_pairs: PositiveInt = 32
    learning_rate: PositiveFloat = 3e-3
    replace_known: bool = False
    """Infer the actions of played episodes too, as if nobody knew them: to measure what codes are worth beside the real
    ones (docs/evaluation.md)."""


class TokenizersConfig(Settings):
    text: TextTokenizerConfig = TextTokenizerConfig()
    image: ImageTokenizerConfig = ImageTokenizerConfig()
    audio: AudioTokenizerConfig = AudioTokenizerConfig()
    latent_action: LatentActionConfig | None = None
    """None leaves films without actions."""
