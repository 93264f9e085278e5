"""How much of what: shares of tokens that may change along a stage, kept exactly.

Every token drawn makes the plan owe each ingredient its share of a token; the ingredient that is owed most comes next
and is paid with its sample's length. So what an ingredient has got never differs from its share by more than the
longest samples, however long the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Schedule = Sequence[tuple[float, float]]
"""(progress, share) points with rising progress in [0, 1]; linear between them, constant outside."""


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One entry of a mixture: the samples of every shard of its source, and its share of the tokens."""

    name: str
    shard_samples: np.ndarray
    share: Schedule


def shares_at(mixture: Sequence[Ingredient], progress: float) -> list[float]:
    """Share of tokens of every ingredient at `progress` (0 to 1) of the stage; they sum to 1.

    Raises ValueError when all are 0 there.
    """
    shares = [float(np.interp(progress, *np.transpose(ingredient.share))) for ingredient in mixture]
    total = sum(shares)
    if not total > 0:
        raise ValueError(f"all shares of the mixture are 0 at {progress:.3f} of the stage")
    return [share / total for share in shares]


class Debt:
    """Tokens owed to every ingredient (negative when it got more than its share), and who comes next."""

    def __init__(self, shares: Sequence[float], owed: Sequence[float]) -> None:
        self._shares, self.owed = tuple(shares), list(owed)
        self._drawn_from = [i for i, share in enumerate(shares) if share > 0]

    def next_ingredient(self) -> int:
        """The one that is owed most; the first of equals."""
        return max(self._drawn_from, key=self.owed.__getitem__)

    def pay(self, ingredient: int, tokens: int) -> None:
        """A sample of `tokens` tokens was drawn."""
        for i, share in enumerate(self._shares):
            self.owed[i] += share * tokens
        self.owed[ingredient] -= tokens

    def settle(self, tokens: Sequence[int]) -> None:
        """`tokens[i]` were drawn of ingredient i: what `pay` for every sample comes to, at once."""
        total = sum(tokens)
        self.owed = [
            before + share * total - got for before, share, got in zip(self.owed, self._shares, tokens, strict=True)
        ]
