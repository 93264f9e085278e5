"""Every random draw of the project is keyed by what it is for, never by worker, rank or time."""

from __future__ import annotations

import hashlib

import numpy as np


def keyed_number(*parts: int | str) -> int:
    """A uniform number below 2^64, a pure function of `parts`; much cheaper than a generator."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def keyed_generator(*parts: int | str) -> np.random.Generator:
    """A counter-based generator (Philox) whose stream is a pure function of `parts`, e.g. (seed, stage, epoch, key)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
