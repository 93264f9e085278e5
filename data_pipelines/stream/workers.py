"""Worker processes that build whole batches ahead, in the order in which they are asked for."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

WORKER_DIED = "DataLoader worker died"
PREFETCH_BATCHES = 4
"""Batches that a worker builds ahead."""


def build_in_workers(builder: Dataset, items: Iterator[Any], workers: int, timeout_seconds: float) -> Iterator[Any]:
    """`builder[item]` of every item, in order. Raises RuntimeError when a worker dies or hangs."""
    return iter(
        DataLoader(
            builder,
            batch_size=None,
            sampler=items,  # pyright: ignore[reportArgumentType]
            num_workers=workers,
            prefetch_factor=PREFETCH_BATCHES,
            pin_memory=torch.cuda.is_available(),
            timeout=timeout_seconds,
            worker_init_fn=_quiet,
        )
    )


def next_built(built: Iterator[Any], *, in_workers: bool) -> Any:
    """What comes next; an exception that a builder handed over is raised, and a broken pipe named as what it is."""
    try:
        made = next(built)
    except (OSError, EOFError) as error:
        if in_workers:
            raise RuntimeError(f"{WORKER_DIED} ({type(error).__name__}: {error})") from None
        raise
    if isinstance(made, Exception):
        raise made
    return made


def is_worker_death(error: RuntimeError) -> bool:
    """Whether torch's words say that a worker was killed or hangs. It may raise this from a signal handler, so at any
    line of the main process."""
    return str(error).startswith("DataLoader worker") or "DataLoader timed out" in str(error)


def _quiet(_: int) -> None:
    """Signals are the main process's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
