"""Weights that every rank holds must be equal, bit for bit: where they are not, memory or a link has corrupted them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unimodel.errors import LostError

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
NAMED = 3
"""Parameters that an error names."""


def check_replicas(module: nn.Module, hosts: Sequence[str], step: int) -> None:
    """Compares all parameters over the ranks: one all-reduce of 16 bytes per parameter. Collective.

    Under ZeRO 0 a difference stays, and is found whenever it came. ZeRO 1 and 2 gather the weights anew in every step:
    found is what changed since. Shards that one rank alone holds have no second copy to compare them with.

    Raises LostError on all ranks, naming the parameters and the ranks in the minority.
    """
    mine = torch.stack([_sum_of_bits(parameter) for parameter in module.parameters()])
    ends = torch.cat([mine, ~mine])
    dist.all_reduce(ends, dist.ReduceOp.MAX)
    most, least = ends[: len(mine)], ~ends[len(mine) :]
    if torch.equal(most, least):
        return
    every = [torch.empty_like(mine) for _ in hosts]
    dist.all_gather(every, mine)
    sums = torch.stack(every, dim=1)[most != least].tolist()
    names = [name for (name, _), other in zip(module.named_parameters(), most != least, strict=True) if other]
    ranks = sorted({rank for of_one in sums for rank in minority(of_one)})
    raise LostError(
        f"corrupted weights at step {step}: {', '.join(names[:NAMED])}{' ...' if len(names) > NAMED else ''} "
        f"({len(names)} of {len(mine)} parameters) differ between ranks; in the minority: "
        f"{', '.join(f'rank {rank} on {hosts[rank]}' for rank in ranks)}. Run the same command again: it goes on from "
        "the last checkpoint. A host that does this twice needs a look at its memory"
    )


def minority(sums: Sequence[int]) -> list[int]:
    """Ranks outside the largest group of equal ones; all of them where two groups are as large."""
    groups = Counter(sums).most_common(2)
    if len(groups) == 2 and groups[0][1] == groups[1][1]:
        return list(range(len(sums)))
    return [rank for rank, value in enumerate(sums) if value != groups[0][0]]


def _sum_of_bits(parameter: Tensor) -> Tensor:
    """The elements' bits as integers, summed modulo 2^64: exact in any order, and no single flip leaves it."""
    bits = BITS[parameter.element_size()]
    return parameter.detach().contiguous().view(bits).sum(dtype=torch.int64)
