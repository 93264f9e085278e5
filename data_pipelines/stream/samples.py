"""Decoded samples of raw shards in planned order, in batches: for tokenizer training, benchmarks and users' own loops.

    samples = SampleStream(ShardReader(folder), decode, SampleSettings(batch_samples=64, workers=2))
    for batch in samples:          # endless
        use(batch.samples)
        save(samples.state_dict()) # go on from here, on any number of ranks and workers

The order is that of `SampleOrder`: a fresh shuffle each epoch, a pure function of the seed. Batch n of the world holds
draws n * batch .. (n + 1) * batch - 1, so one number is the whole state. Ranks share a batch, and a worker builds whole
batches: what crosses is one array per name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from data_pipelines.shards.reader import ShardReader
from data_pipelines.stream.bad_sample import BadSample, name_bad_sample
from data_pipelines.stream.order import SampleOrder
from data_pipelines.stream.workers import WorkerError, build_in_workers

Sample = Mapping[str, Any]
Decode = Callable[[str, dict[str, bytes]], Sample]
"""(key, {field: payload}) -> named values. Raises ValueError for what cannot be decoded."""


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """This rank's part of a batch; bad samples are missing from all lists alike."""

    keys: list[str]
    samples: dict[str, Any]
    """By name: arrays of one shape and dtype as one tensor [samples, ...], anything else as a list."""
    bad_samples: tuple[BadSample, ...]


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """How samples are drawn and dealt."""

    batch_samples: int
    """Of a global batch, over all ranks."""
    seed: int = 0
    rank: int = 0
    num_ranks: int = 1
    workers: int = 0
    """Processes that read and decode ahead; 0 does it here."""
    timeout_seconds: float = 600.0
    """Longest wait for a worker."""


class SampleStream(IterableDataset):
    """Endless batches of one rank.

    Raises ValueError when a batch does not divide among the ranks, WorkerError when a worker dies or hangs.
    """

    def __init__(self, reader: ShardReader, decode: Decode, settings: SampleSettings) -> None:
        if settings.batch_samples < 1 or settings.batch_samples % settings.num_ranks:
            raise ValueError(
                f"a batch of {settings.batch_samples} samples does not divide among {settings.num_ranks} ranks: "
                "change batch_samples"
            )
        self._settings = settings
        self._builder = _BatchBuilder(reader, decode, settings)
        self._batches: Iterator[SampleBatch | Exception] | None = None
        self._next_batch = 0

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands after the last batch that was handed out; JSON-able."""
        return {"seed": self._settings.seed, "draws": self._next_batch * self._settings.batch_samples}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a `state_dict`, whatever number of ranks and workers it came from.

        Raises ValueError for the state of another seed or of another size of batch.
        """
        if state["seed"] != self._settings.seed or state["draws"] % self._settings.batch_samples:
            raise ValueError(
                f"the state {state} is not one of seed {self._settings.seed} and batches of "
                f"{self._settings.batch_samples} samples"
            )
        self.close()
        self._next_batch = state["draws"] // self._settings.batch_samples

    def __iter__(self) -> Iterator[SampleBatch]:
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise ValueError("this stream has worker processes of its own: give `workers` to it, 0 to the DataLoader")
        return self

    def __next__(self) -> SampleBatch:
        try:
            if self._batches is None:
                self._batches = self._start()
            batch = next(self._batches)
            if isinstance(batch, Exception):
                raise batch
        except (OSError, WorkerError):
            self.close()  # the next call tries that batch again
            raise
        self._next_batch += 1
        return replace(batch, samples={name: _as_tensors(value) for name, value in batch.samples.items()})

    def close(self) -> None:
        """Ends the workers; the next batch starts them again. What they had built ahead is built again."""
        self._batches = None

    def _start(self) -> Iterator[SampleBatch | Exception]:
        numbers = count(self._next_batch)
        if not self._settings.workers:
            return map(self._builder, numbers)
        return build_in_workers(self._builder, numbers, self._settings.workers, self._settings.timeout_seconds)


class _BatchBuilder:
    """Builds this rank's part of any batch."""

    def __init__(self, reader: ShardReader, decode: Decode, settings: SampleSettings) -> None:
        self._reader, self._decode, self._settings = reader, decode, settings
        self._order = SampleOrder(reader.shard_samples, settings.seed, "samples")

    def __call__(self, number: int) -> SampleBatch | Exception:
        try:
            return self._batch(number)
        except OSError as error:  # raised where the batch is waited for
            return error

    def _batch(self, number: int) -> SampleBatch:
        first, stop = number * self._settings.batch_samples, (number + 1) * self._settings.batch_samples
        keys: list[str] = []
        samples: list[Sample] = []
        bad: list[BadSample] = []
        for draw in range(first + self._settings.rank, stop, self._settings.num_ranks):
            _, sample = self._order[draw]
            try:
                key, fields = self._reader.read(sample)
                samples.append(self._decode(key, fields))
                keys.append(key)
            except ValueError as error:
                bad.append(name_bad_sample(self._reader, sample, error))
        return SampleBatch(keys, _collated(samples), tuple(bad))


def _collated(samples: Sequence[Sample]) -> dict[str, Any]:
    names = samples[0].keys() if samples else ()
    return {name: _stacked([sample[name] for sample in samples]) for name in names}


def _stacked(values: list[Any]) -> Any:
    first = values[0]
    if not isinstance(first, np.ndarray):
        return values
    same = all(value.shape == first.shape and value.dtype == first.dtype for value in values)
    return np.stack(values) if same else values


def _as_tensors(value: Any) -> Any:
    """Arrays, and those in a list, as tensors over the same memory."""
    if isinstance(value, list):
        return [_as_tensors(one) for one in value]
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
