"""The building block of networks over patches."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Module):
    """x + MLP(norm(x)); `kernel` 1 keeps patches apart, 3 mixes neighbours."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(1, width) if kernel > 1 else _ChannelNorm(width),
            nn.Conv2d(width, 2 * width, kernel, padding=kernel // 2),
            nn.SiLU(),
            nn.Conv2d(2 * width, width, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


class _ChannelNorm(nn.Module):
    """LayerNorm over channels at every place, so that a patch's features do not depend on other patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(features.movedim(1, -1)).movedim(-1, 1)
