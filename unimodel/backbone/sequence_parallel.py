"""Ulysses sequence parallelism: ranks that share rows, each with its stretch of the length.

Everything in a decoder but attention works on one place at a time, so a rank runs its own places only. Around attention
the ranks swap: each gets all places of its share of the heads, and the stretch of its own places of all heads back
(Jacobs et al. 2023, arXiv 2309.14509; ALST, arXiv 2506.13996). DeepSpeed's `UlyssesSPAttentionHF` makes up a causal
mask for the whole length; ours is the batch's own, whatever it says, so the swap is done here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from unimodel.backbone.attention import BLOCKS, DENSE
from unimodel.batch import PackedBatch

PREFIX = "swapped_"
"""Of the names of attention functions that swap heads for places."""


@dataclass(frozen=True, slots=True)
class SequenceGroup:
    """The ranks that share the rows of one of them: `rank` of `size`, neighbours among all ranks."""

    rank: int = 0
    size: int = 1
    ranks: dist.ProcessGroup | None = None

    def part(self, batch: PackedBatch) -> PackedBatch:
        """The places that this rank runs and answers for; what ranks count of theirs is counted once."""
        if self.size == 1:
            return batch
        own, rest = divmod(batch.document.shape[1], self.size)
        assert not rest, "the config has been validated"
        return batch.columns(self.rank * own, (self.rank + 1) * own)

    def rows_of(self) -> dict[str, int]:
        """Whose rows they are, among ranks that have rows of their own."""
        return {"rank": dist.get_rank() // self.size, "num_ranks": dist.get_world_size() // self.size}


def build_sequence_group(size: int, limit: timedelta) -> SequenceGroup:
    """This rank's group; a swap that takes longer than `limit` fails. Collective.

    Raises ValueError when `size` does not divide the number of ranks.
    """
    num_ranks = dist.get_world_size()
    if num_ranks % size:
        raise ValueError(f"engine.sequence_parallel ({size}) must divide the number of processes ({num_ranks})")
    if size == 1:
        return SequenceGroup()
    mine, _ = dist.new_subgroups(size, timeout=limit)
    assert isinstance(mine, dist.ProcessGroup)
    return SequenceGroup(dist.get_rank() % size, size, mine)


def swap_in_attention(decoder: PreTrainedModel, size: int) -> None:
    """Has `decoder` swap around its attention, for calls with a `sequence` of `size` ranks.

    Raises ValueError for a decoder whose heads do not divide or that mixes places outside attention.
    """
    config: Any = decoder.config
    if config.num_attention_heads % size:
        raise ValueError(
            f"engine.sequence_parallel ({size}) must divide the attention heads ({config.num_attention_heads}), "
            "which the ranks share"
        )
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if others:
        raise ValueError(
            f"engine.sequence_parallel splits full attention only, and this decoder has layers of "
            f"{', '.join(sorted(others))}: set it to 1"
        )
    decoder.set_attn_implementation(PREFIX + config._attn_implementation)


def _swapped(name: str) -> Any:
    """The attention function `name` over all places, called with this rank's."""

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | BlockMask,
        *,
        sequence: SequenceGroup,
        **settings: Any,
    ) -> tuple[Tensor, None]:
        """`query`, `key`, `value` [rows, heads, own places, dim]; the mask is that of all places."""
        # Key heads that do not divide are sent to as many ranks as need them.
        copies = sequence.size // math.gcd(sequence.size, key.shape[1])
        if copies > 1:
            key, value = key.repeat_interleave(copies, dim=1), value.repeat_interleave(copies, dim=1)
        query, key, value = (heads_for_places(x, sequence) for x in (query, key, value))
        module.num_key_value_groups = query.shape[1] // key.shape[1]  # pyright: ignore[reportArgumentType]
        found, _ = ALL_ATTENTION_FUNCTIONS[name](module, query, key, value, attention_mask, **settings)
        return places_for_heads(found, sequence), None

    return attend


for _name in (DENSE, BLOCKS):
    ALL_ATTENTION_FUNCTIONS.register(PREFIX + _name, _swapped(_name))


def heads_for_places(x: Tensor, sequence: SequenceGroup) -> Tensor:
    """[rows, heads, own places, dim] -> [rows, own heads, places, dim]"""
    rows, heads, places, dim = x.shape
    parts = x.view(rows, sequence.size, heads // sequence.size, places, dim).transpose(0, 1)
    return _swap(parts, sequence).permute(1, 2, 0, 3, 4).reshape(rows, -1, sequence.size * places, dim)


def places_for_heads(x: Tensor, sequence: SequenceGroup) -> Tensor:
    """[rows, places, own heads, dim] -> [rows, own places, heads, dim]"""
    rows, places, heads, dim = x.shape
    parts = x.reshape(rows, sequence.size, places // sequence.size, heads, dim).transpose(0, 1)
    return _swap(parts, sequence).permute(1, 2, 0, 3, 4).reshape(rows, -1, sequence.size * heads, dim)


def _swap(parts: Tensor, sequence: SequenceGroup) -> Tensor:
    """[ranks, ...] what each rank is to get -> [ranks, ...] what came from each."""
    swapped = _Swap.apply(parts, sequence.ranks)
    assert isinstance(swapped, Tensor)
    return swapped


class _Swap(torch.autograd.Function):
    """All-to-all over the first dimension; its gradient goes the same way back."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, ranks: dist.ProcessGroup) -> Tensor:
        ctx.ranks = ranks
        parts = parts.contiguous()
        swapped = torch.empty_like(parts)
        dist.all_to_all_single(swapped, parts, group=ranks)
        return swapped

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _Swap.apply(gradients[0], ctx.ranks), None
