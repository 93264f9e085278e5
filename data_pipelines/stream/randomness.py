"""Every random draw of the project is keyed by what it is for, never by worker, rank or time."""

from __future__ import annotations

import hashlib

import numpy as np


def keyed_number(*parts: int | str) -> int:
    """A uniform number below 2^64, a pure function of `parts`; much cheaper than a generator."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def keyed_generator(*parts: int | str) -> np.random.Generator:
    """A counter-based generator (Philox) whose stream is a pure function of `parts`, e.g. (seed, stage, epoch, key)."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(parts), "little")))


class RekeyedGenerator:
    """One generator keyed again and again, far cheaper than new ones; for who draws for one sample at a time."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0)
        self._start = self._philox.state
        self._generator = np.random.Generator(self._philox)

    def keyed(self, *parts: int | str) -> np.random.Generator:
        """Draws what `keyed_generator(*parts)` does, until it is keyed again."""
        self._start["state"]["key"] = np.frombuffer(_digest(parts), dtype="<u8")
        self._philox.state = self._start
        return self._generator


def _digest(parts: tuple[int | str, ...]) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
