"""What many worlds have read: keys and values of every layer, written in place, each world at its own length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel


class KeyValueCache:
    """Rows of a batch that live on between forwards. It does not know how much of a row counts: its user does.

    It is empty at first and grows. With `whole`, forwards look at all its places, whatever they hold, and write by
    index: every forward of so many tokens has the same shapes, as compiled ones want.
    """

    def __init__(self, decoder: PreTrainedModel, *, whole: bool = False) -> None:
        self._whole = whole
        config = decoder.config
        self._shape = (config.num_key_value_heads, config.head_dim)
        self._like = next(decoder.parameters())
        self.keys: list[Tensor] = [self._empty(0, 0) for _ in range(config.num_hidden_layers)]
        self.values: list[Tensor] = [self._empty(0, 0) for _ in range(config.num_hidden_layers)]

    @property
    def worlds(self) -> int:
        return self.keys[0].shape[0]

    @property
    def places(self) -> int:
        return self.keys[0].shape[2]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (*self.keys, *self.values))

    def grow(self, worlds: int, places: int) -> None:
        """Makes room; what is there stays."""
        worlds, places = max(worlds, self.worlds), max(places, self.places)
        if (worlds, places) == (self.worlds, self.places):
            return
        for parts in (self.keys, self.values):
            for layer, old in enumerate(parts):
                parts[layer] = self._empty(worlds, places)
                parts[layer][: old.shape[0], :, : old.shape[2]] = old

    def copy(self, world: int, others: Sequence[int], places: int) -> None:
        """Gives `others` the first `places` of `world`. There must be room for them."""
        for store in (*self.keys, *self.values):
            store[self._tensor(others), :, :places] = store[world, :, :places]

    def at(self, worlds: Sequence[int], starts: Sequence[int], tokens: int) -> Writing:
        """Where the next `tokens` of these worlds go: world `worlds[i]` from place `starts[i]` on."""
        in_a_row = list(worlds) == list(range(worlds[0], worlds[0] + len(worlds)))
        if self._whole:  # a slice is part of a shape
            in_a_row = list(worlds) == list(range(self.worlds))
        rows = slice(worlds[0], worlds[0] + len(worlds)) if in_a_row else self._tensor(worlds)
        extent = self.places if self._whole else max(starts) + tokens
        if len(set(starts)) == 1 and not self._whole:
            return Writing(self, rows, slice(starts[0], extent), extent)
        places = self._tensor(starts)[:, None] + torch.arange(tokens, device=self._like.device)
        return Writing(self, rows, places, extent)

    def _empty(self, worlds: int, places: int) -> Tensor:
        heads, dim = self._shape
        store = self._like.new_zeros(worlds, heads, places, dim)
        if self._whole:  # else a CUDA graph would write into a copy of it, and torch makes none for such a forward
            torch._dynamo.mark_static_address(store)
        return store

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, device=self._like.device)


@dataclass(frozen=True, slots=True)
class Writing:
    """One forward's part of a cache, as transformers' attention layers use it.

    `rows` are its worlds, `places` (a slice of all rows, or [rows, tokens]) where their new tokens stand, `extent` how
    many places the new tokens may look at.
    """

    cache: KeyValueCache
    rows: slice | Tensor
    places: slice | Tensor
    extent: int

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Writes [rows, heads, tokens, dim] and returns [rows, heads, extent, dim]."""
        return self._write(self.cache.keys[layer], key), self._write(self.cache.values[layer], value)

    def _write(self, store: Tensor, new: Tensor) -> Tensor:
        if isinstance(self.places, slice):
            store[self.rows, :, self.places] = new
        else:
            rows = torch.arange(store.shape[0], device=store.device)[self.rows]
            store[rows[:, None], :, self.places] = new.transpose(1, 2)
        return store[self.rows, :, : self.extent]
