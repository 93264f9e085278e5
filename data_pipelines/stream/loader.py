"""Planned rows -> packed batches of one rank, read and built here or in worker processes.

    for step in stream:      # endless
        train(step.batch)    # this rank's rows
        save(step.state)     # go on from here, on any number of ranks and workers

The plan is made once per rank, in the main process; a worker gets whole steps to build. A batch carries the state after
it, so steps that were prefetched but not used are made again after a restart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from data_pipelines.stream.bad_sample import BadSample
from data_pipelines.stream.order import Draw
from data_pipelines.stream.packing import deal_by_cost
from data_pipelines.stream.plan import QUADRATIC_TOKENS, Placed, Plan, Row, StreamState, attention_cost
from data_pipelines.stream.workers import WorkerError, build_in_workers
from unimodel.batch import CorruptedSequence, PackedBatch, pack

READ_AHEAD_STEPS = 32
"""Steps whose bytes are asked for before they are built, for data that lies far away. New shards come in groups, all at
once: so many steps is the time in which a group's first blocks must arrive."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """This rank's part of a global step."""

    batch: PackedBatch
    state: StreamState
    """Of the stream after this step, equal on all ranks."""
    tokens: tuple[int, ...]
    """Planned tokens of every ingredient in the global step."""
    bad_samples: tuple[BadSample, ...]
    """Of this rank's rows."""

    def pin_memory(self) -> StepBatch:
        """In page-locked memory, from which copies to a GPU run beside the computation."""
        return replace(self, batch=self.batch.pin_memory())


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What a stream needs to know of the run beside its plan and its samples."""

    rows: int
    """Of a global step."""
    row_tokens: int
    pad_id: int
    rank: int = 0
    num_ranks: int = 1
    workers: int = 0
    """Processes that build steps; 0 builds them here."""
    quadratic_tokens: float = QUADRATIC_TOKENS
    """See `attention_cost`."""
    timeout_seconds: float = 600.0
    """Longest wait for a worker."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What a worker is asked to build."""

    rows: tuple[Row, ...]
    state: StreamState
    tokens: tuple[int, ...]
    ahead: tuple[Draw, ...] = ()
    """Whose bytes are wanted soon."""


class PackedStream(IterableDataset):
    """Endless steps of one rank.

    `build(placed)` reads, tokenises and corrupts one sample, or says what is wrong with it; it must be a pure function
    of the draw. `read_ahead(draws)`, where data lies far away, has their bytes fetched in the background; it is called
    where the steps are built. Raises ValueError when the rows do not divide among the ranks; `next` raises WorkerError
    when a worker dies or hangs, and the ValueError or OSError of a step that cannot be planned or built.
    """

    def __init__(
        self,
        plan: Plan,
        build: Callable[[Placed], CorruptedSequence | BadSample],
        num_ingredients: int,
        settings: StreamSettings,
        read_ahead: Callable[[Sequence[Draw]], None] | None = None,
    ) -> None:
        deal_by_cost([0.0] * settings.rows, settings.num_ranks)
        self._plan, self._num_ingredients, self._settings = plan, num_ingredients, settings
        self._builder = _StepBuilder(build, settings, read_ahead)
        self._reads_ahead = read_ahead is not None
        self._steps: Iterator[StepBatch | Exception] | None = None
        self.state = plan.state

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands after the last step that was handed out; JSON-able."""
        return asdict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`, whatever number of ranks and workers it came from."""
        self.close()
        self._plan.seek(StreamState.from_json(state))
        self.state = self._plan.state

    def __iter__(self) -> Iterator[StepBatch]:
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise ValueError("this stream has worker processes of its own: give `workers` to it, 0 to the DataLoader")
        return self

    def __next__(self) -> StepBatch:
        try:
            if self._steps is None:
                self._steps = self._start()
            step = next(self._steps)
            if isinstance(step, Exception):
                raise step
        except (OSError, ValueError, WorkerError):
            self.close()  # the next call tries that step again
            raise
        self.state = step.state
        return step.pin_memory() if torch.cuda.is_available() else step

    def close(self) -> None:
        """Ends the workers; the next step starts them again. What they had built ahead is planned again."""
        if self._steps is not None:
            self._steps = None
            self._plan.seek(self.state)

    def _start(self) -> Iterator[StepBatch | Exception]:
        if not self._settings.workers:
            return map(self._builder, self._planned())
        return build_in_workers(self._builder, self._planned(), self._settings.workers, self._settings.timeout_seconds)

    def _planned(self) -> Iterator[_Step | Exception]:
        return self._with_ahead() if self._reads_ahead else self._in_order()

    def _with_ahead(self) -> Iterator[_Step | Exception]:
        """Every step asks for the bytes of the one that comes READ_AHEAD_STEPS later, the first for all before."""
        waiting: deque[_Step] = deque()
        ahead: list[Draw] = []
        window = -1
        for step in self._in_order():
            if isinstance(step, Exception):
                yield from waiting
                yield step
                return
            waiting.append(step)
            ahead += [placed.draw for row in step.rows for placed in row]
            if self._plan.state.window != window:
                window = self._plan.state.window
                ahead += self._plan.shards_ahead()
            if len(waiting) > READ_AHEAD_STEPS:
                yield replace(waiting.popleft(), ahead=tuple(ahead))
                ahead.clear()

    def _in_order(self) -> Iterator[_Step | Exception]:
        settings = self._settings
        while True:
            try:
                rows = self._plan.take(settings.rows)
            except (OSError, ValueError) as error:  # in its turn, after the steps that were planned ahead
                yield error
                return
            costs = [attention_cost(row, settings.quadratic_tokens) for row in rows]
            tokens = [0] * self._num_ingredients
            for row in rows:
                for placed in row:
                    tokens[placed.draw.ingredient] += placed.length
            mine = deal_by_cost(costs, settings.num_ranks)[settings.rank]
            yield _Step(tuple(rows[i] for i in mine), self._plan.state, tuple(tokens))


class _StepBuilder:
    """Builds whole steps: what crosses from a worker is one packed batch."""

    def __init__(
        self,
        build: Callable[[Placed], CorruptedSequence | BadSample],
        settings: StreamSettings,
        read_ahead: Callable[[Sequence[Draw]], None] | None,
    ) -> None:
        self._build, self._settings, self._read_ahead = build, settings, read_ahead

    def __call__(self, step: _Step | Exception) -> StepBatch | Exception:
        if isinstance(step, Exception):
            return step
        try:
            if self._read_ahead is not None:
                self._read_ahead(step.ahead)
            return self._step(step)
        except (OSError, ValueError) as error:  # raised where the step is waited for
            return error

    def _step(self, step: _Step) -> StepBatch:
        bad: list[BadSample] = []
        rows: list[list[CorruptedSequence]] = []
        for row in step.rows:
            rows.append([])
            for placed in row:
                built = self._build(placed)
                if isinstance(built, BadSample):
                    bad.append(built)
                else:
                    rows[-1].append(built)
        batch = pack(rows, self._settings.row_tokens, self._settings.pad_id)
        return StepBatch(batch, step.state, step.tokens, tuple(bad))
