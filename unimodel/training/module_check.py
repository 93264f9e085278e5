"""Ranks must run the same modules: one that skips a trainable module hangs the others in a collective of ZeRO.

For finding such a bug: after every forward pass, before the collectives of the backward pass, ranks compare what they
ran. ZeRO 3 and ranks that share rows have collectives in the forward pass already, and would hang before that: there
they also compare before every module, ahead of its collective, which one comes next.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unimodel.errors import RunError

ADVICE = (
    "every rank must run every trainable module in every pass, or collectives of ZeRO hang: run it on something and "
    "multiply by 0, or freeze it"
)


class ModuleCheck:
    """Hooks on every module with trainable parameters of its own; `stepwise` compares before each of them too."""

    def __init__(self, root: nn.Module, device: torch.device, *, stepwise: bool) -> None:
        self._names = [name for name, module in root.named_modules() if _trains(module)]
        self._device, self._stepwise = device, stepwise
        self._ran: set[int] = set()
        self._inside = False
        for number, name in enumerate(self._names):
            module = root.get_submodule(name)
            # Ahead of the engine's own hook, which gathers.
            module.register_forward_pre_hook(lambda *_, number=number: self._meet(number), prepend=True)
            module.register_forward_hook(lambda *_, number=number: self._ran.add(number))
        root.register_forward_pre_hook(lambda *_: self._begin())
        root.register_forward_hook(lambda *_: self._end())

    def _begin(self) -> None:
        self._ran.clear()
        self._inside = True

    def _end(self) -> None:
        """Raises RunError on all ranks where a module did not run on all of them."""
        self._meet(len(self._names))
        self._inside = False  # activations that are computed again, in the backward pass, do not count
        ran = torch.zeros(len(self._names), dtype=torch.int32, device=self._device)
        ran[list(self._ran)] = 1
        skipped = [(rank, self._names[number]) for rank, number in (_from_all(ran) == 0).nonzero().tolist()]
        if skipped:
            cases = ", ".join(f"rank {rank} has skipped {name}" for rank, name in skipped[:3])
            raise RunError(f"{cases}{' ...' if len(skipped) > 3 else ''}: {ADVICE}")

    def _meet(self, number: int) -> None:
        """Raises RunError on all ranks where their next modules are not the same."""
        if not (self._stepwise and self._inside):
            return
        coming = _from_all(torch.tensor(number, dtype=torch.int32, device=self._device)).tolist()
        if len(set(coming)) > 1:
            names = [*self._names, "the end"]
            places = ", ".join(f"rank {rank} comes to {names[place]}" for rank, place in enumerate(coming))
            raise RunError(f"ranks part in the forward pass: {places}, so one of them skips a module; {ADVICE}")


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _from_all(value: Tensor) -> Tensor:
    """[ranks, ...]"""
    every = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(every, value)
    return torch.stack(every)
