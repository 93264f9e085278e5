"""Which rank the others wait for: every few steps, how long each takes by itself, in `ranks.jsonl`.

A step is as long on all ranks, since they wait for each other in collectives. What a rank takes by itself is the wait
for its own data, and its forward pass: that mostly has no collective. Under ZeRO 3, and where ranks share rows, it has,
and so holds waits too: a slow rank shows less there than it is.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from unimodel.observe.clock import ForwardClock


class RankTimes:
    """Medians over the steps since the last report; `tell` and `report` cross with sums that ranks share anyway."""

    def __init__(self, clock: ForwardClock, hosts: Sequence[str], every_steps: int) -> None:
        self._clock, self._hosts, self._every_steps = clock, hosts, every_steps
        self._loading: list[float] = []
        self._forward: list[float] = []

    def add(self, loading: float) -> None:
        """A step has ended; it waited `loading` seconds for its data."""
        self._loading.append(loading)
        self._forward.append(self._clock.take())

    def tell(self, step: int) -> tuple[float, ...]:
        """What this rank gives to the sum over ranks in `step`: its medians in slots of its own, 0 in the others'.
        Nothing in most steps."""
        if step % self._every_steps or not self._forward:
            return ()
        slots = [0.0] * (2 * len(self._hosts))
        rank = dist.get_rank()
        slots[2 * rank : 2 * rank + 2] = statistics.median(self._loading), statistics.median(self._forward)
        self._loading.clear()
        self._forward.clear()
        return tuple(slots)

    def report(self, step: int, sums: Sequence[float]) -> dict[str, Any]:
        """A line of ranks.jsonl, of the sums over ranks."""
        loading, forward = sums[::2], sums[1::2]
        own = [sum(both) for both in zip(loading, forward, strict=True)]
        slowest, middle = max(range(len(own)), key=own.__getitem__), statistics.median(own)
        return {
            "step": step,
            "loading_seconds": [round(value, 5) for value in loading],
            "forward_seconds": [round(value, 5) for value in forward],
            "median_seconds": round(middle, 5),
            "slowest": {"rank": slowest, "host": self._hosts[slowest], "seconds": round(own[slowest], 5)},
        }
