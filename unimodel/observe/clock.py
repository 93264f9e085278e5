"""How long a module's forward pass takes on this rank's own device."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn


class ForwardClock:
    """Sums the seconds of a module's forward passes. On a GPU it measures with events in the stream, so nothing waits
    until `take`."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[Any] = []
        module.register_forward_pre_hook(self._mark)
        module.register_forward_hook(self._mark)

    def take(self) -> float:
        """Seconds since it was last called."""
        pairs = list(zip(self._marks[::2], self._marks[1::2], strict=True))
        self._marks.clear()
        if not self._cuda:
            return sum(end - start for start, end in pairs)
        for _, end in pairs:
            end.synchronize()
        return sum(start.elapsed_time(end) for start, end in pairs) / 1000

    def _mark(self, *_: Any) -> None:
        if not self._cuda:
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)
