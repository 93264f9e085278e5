"""A sequence in the making: codes and spans, one after another."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from unimodel.layout import KNOWN_LAYOUTS, Layout, Role, Span
from unimodel.vocabulary import Modality


class Parts:
    """Grows the codes and spans of one sequence."""

    def __init__(self) -> None:
        self.codes: list[np.ndarray] = []
        self._pieces: list[_Piece] = []

    def add(
        self,
        codes: np.ndarray,
        modality: Modality,
        role: Role,
        time: int = 0,
        grid: tuple[int, int] | None = None,
        *,
        ruler: bool = False,
        missing: bool = False,
        agent: int = 0,
    ) -> None:
        """`codes` [n] of one modality, each from 0; the rest is the span's."""
        self.codes.append(codes)
        self._pieces.append((len(codes), modality, role, time, grid, ruler, missing, agent))

    def layout(self) -> Layout:
        """Of the spans so far; the same for the same spans."""
        return _layout(tuple(self._pieces))


_Piece = tuple[int, Modality, Role, int, tuple[int, int] | None, bool, bool, int]
"""A span by its length instead of its place."""


@lru_cache(maxsize=KNOWN_LAYOUTS)
def _layout(pieces: tuple[_Piece, ...]) -> Layout:
    spans, start = [], 0
    for length, modality, role, time, grid, ruler, missing, agent in pieces:
        spans.append(Span(start, start + length, modality, role, time, grid, ruler, missing, agent))
        start += length
    return Layout(spans)
