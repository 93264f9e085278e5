"""Files of tensors as each rank holds them, and reading any part of them whatever the layout they were written in.

One safetensors file per rank. Its keys are `KIND/NAME`, its values the elements of the flat tensor that the rank held;
where each begins and which shape the whole has stands in the header. Together the files have every element once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

WEIGHT, AVERAGE = "weight", "ema"
PIECES = "pieces"
RANK_FILES = "rank-*.safetensors"


@dataclass(frozen=True, slots=True)
class Held:
    """What a rank holds of one tensor: `values` [n], fp32 on CPU, are elements `start` to `start + n` of the whole."""

    kind: str
    name: str
    shape: tuple[int, ...]
    start: int
    values: Tensor

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}"

    def buffer(self) -> memoryview:
        """The bytes of the values, as they lie in memory."""
        return self.values.view(torch.uint8).numpy().data


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def write_held(path: Path, held: Sequence[Held]) -> str:
    """Writes and syncs one rank's file; returns its SHA-256.

    The library would copy every tensor before it writes the first: this writes and hashes the memory itself, once.
    """
    header: dict[str, Any] = {"__metadata__": {PIECES: json.dumps({h.key: [h.start, *h.shape] for h in held})}}
    at = 0
    for one in held:
        assert one.values.dtype is torch.float32, one.key
        num_bytes = one.values.numel() * one.values.element_size()
        header[one.key] = {
            "dtype": "F32",
            "shape": [one.values.numel()],
            "data_offsets": [at, at + num_bytes],
        }
        at += num_bytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)  # the format wants its data aligned
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for part in (len(head).to_bytes(8, "little"), head, *(one.buffer() for one in held)):
            _write_all(file.fileno(), memoryview(part))
            digest.update(part)
        os.fsync(file.fileno())
    return digest.hexdigest()


def _write_all(descriptor: int, part: memoryview) -> None:
    while part:
        part = part[os.write(descriptor, part) :]


@dataclass(slots=True)
class _Stored:
    """One whole tensor: its shape, and which file holds which elements."""

    shape: torch.Size
    pieces: list[tuple[int, int, int]] = field(default_factory=list)
    """(start, elements, file)"""


class StoredState:
    """The files of a folder as one set of named tensors. Nothing is read before it is asked for.

    Raises ValueError, when first asked, for files that do not have every element once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _files(self) -> list[Any]:
        return [safe_open(path, framework="pt") for path in sorted(self._folder.glob(RANK_FILES))]

    @cached_property
    def _index(self) -> dict[str, _Stored]:
        index: dict[str, _Stored] = {}
        for number, file in enumerate(self._files):
            for key, (start, *shape) in json.loads(file.metadata()[PIECES]).items():
                stored = index.setdefault(key, _Stored(torch.Size(shape)))
                stored.pieces.append((start, file.get_slice(key).get_shape()[0], number))
        for key, stored in index.items():
            stored.pieces.sort()
            at = 0
            for start, size, _ in stored.pieces:
                if start != at:
                    raise ValueError(f"{self._folder}: {key} has no elements {at} to {start}: a rank's file is missing")
                at += size
            if at != stored.shape.numel():
                raise ValueError(f"{self._folder}: {key} ends at {at} of {stored.shape.numel()} elements")
        return index

    def names(self, kind: str) -> list[str]:
        """Tensors of a kind."""
        return [key.split("/", 1)[1] for key in self._index if key.startswith(f"{kind}/")]

    def has(self, kind: str, name: str, shape: torch.Size) -> bool:
        """Whether there is such a tensor of this shape."""
        stored = self._index.get(f"{kind}/{name}")
        return stored is not None and stored.shape == shape

    def shape(self, kind: str, name: str) -> torch.Size:
        return self._index[f"{kind}/{name}"].shape

    def piece(self, kind: str, name: str, start: int, numel: int) -> Tensor:
        """[numel] elements of the flat tensor from `start` on."""
        key = f"{kind}/{name}"
        parts = []
        for first, size, number in self._index[key].pieces:
            low, high = max(start, first), min(start + numel, first + size)
            if low < high:
                parts.append(self._files[number].get_slice(key)[low - first : high - first])
        return torch.cat(parts) if parts else torch.empty(0)

    def whole(self, kind: str, name: str) -> Tensor:
        """The tensor in its shape."""
        shape = self.shape(kind, name)
        return self.piece(kind, name, 0, shape.numel()).reshape(shape)

    def weights(self, *, averaged: bool = False) -> Mapping[str, Tensor]:
        """Weights by name, each read when it is asked for; `averaged` takes the moving average of those that have
        one."""
        averages = self.names(AVERAGE) if averaged else ()
        return _Named(self, dict.fromkeys(self.names(WEIGHT), WEIGHT) | dict.fromkeys(averages, AVERAGE))


class _Named(Mapping[str, Tensor]):
    """Whole tensors by name, of the kind that stands beside it."""

    def __init__(self, state: StoredState, kinds: dict[str, str]) -> None:
        self._state, self._kinds = state, kinds

    def __getitem__(self, name: str) -> Tensor:
        return self._state.whole(self._kinds[name], name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)
