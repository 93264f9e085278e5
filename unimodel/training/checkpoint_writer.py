"""Checkpoints written beside the training: the loop waits only for the copy to host memory.

Every rank writes the tensors that it holds, in a thread, under one hidden folder. What became of it travels with the
counts that ranks share in every step: when all have written, the main rank publishes; when one could not, it clears up.
So all ranks know at the same step, and nobody waits for a file to appear.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist

from unimodel.config import CheckpointConfig
from unimodel.run_folder import read_json, write_json
from unimodel.training.checkpoint import TrainPosition, checkpoint_folder, prune_checkpoints, publish_checkpoint
from unimodel.training.checkpoint_store import CheckpointStore
from unimodel.training.collective import sum_over_ranks
from unimodel.training.stored_state import RANK_FILES, Held, rank_file, write_held

HASH_SUFFIX = ".sha256"


class CheckpointWriter:
    """At most one checkpoint is being written. `folder` must be one that all ranks see.

    `warn` is told of a checkpoint that could not be written, on the rank where it failed; the one before it stays.
    """

    def __init__(
        self, folder: Path, settings: CheckpointConfig, config: dict[str, Any], warn: Callable[[str], None]
    ) -> None:
        self._folder, self._settings, self._config, self._warn = folder, settings, config, warn
        self._rank, self._num_ranks = dist.get_rank(), dist.get_world_size()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._position: TrainPosition | None = None
        self._writing: Future[None] | None = None
        self._publishing: Future[None] | None = None
        self._failed = False
        self._store = CheckpointStore(settings.upload) if settings.upload else None
        if self._rank == 0:
            for left_over in folder.glob(".*.tmp"):
                shutil.rmtree(left_over)
        dist.barrier()

    @property
    def is_busy(self) -> bool:
        """Whether ranks are writing; then the tensors given to `start` must not change. The same on all ranks."""
        return self._position is not None

    def start(self, position: TrainPosition, held: Sequence[Held]) -> None:
        """Begins to write `held`, this rank's tensors at `position`."""
        assert not self.is_busy, "settle the checkpoint before it first"
        self._position, self._failed = position, False
        self._writing = self._thread.submit(self._write, position, held)

    def written(self) -> tuple[float, float]:
        """Whether this rank has written its part, and whether it has failed to: what ranks sum and give `settle`."""
        if self._writing is None or not self._writing.done():
            return 0.0, 0.0
        failed = self._writing.exception() is not None
        return float(not failed), float(failed)

    def settle(self, written: float, failed: float) -> None:
        """Has the checkpoint published, or cleared up, once all ranks are done. Call it on all with the same sums."""
        self._tell(self._publishing)
        if self._position is None or written + failed < self._num_ranks:
            return
        self._tell(self._writing)
        position, self._position, self._writing, self._failed = self._position, None, None, failed > 0
        if self._rank == 0:
            self._publishing = self._thread.submit(self._clear_up if failed else self._publish, position)

    def finish(self) -> bool:
        """Waits for the checkpoint that was started last; whether it is published now. Collective."""
        if self._writing is not None:
            self._writing.exception()  # waits
            self.settle(*sum_over_ranks(*self.written()))
        if self._publishing is not None:
            self._publishing.exception()
            self._tell(self._publishing)
        return sum_over_ranks(self._failed)[0] == 0

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown()

    def _tell(self, job: Future[None] | None) -> None:
        """Warns, once, of a job that has failed."""
        if job is None or not job.done():
            return
        if job is self._publishing:
            self._publishing = None
        error = job.exception()
        if isinstance(error, OSError):
            self._failed = True
            self._warn(f"a checkpoint in {self._folder} could not be written ({error}); those before it stay")
        elif error is not None:
            raise error

    def _hidden(self, position: TrainPosition) -> Path:
        published = checkpoint_folder(self._folder, position)
        return published.with_name(f".{published.name}.tmp")

    def _write(self, position: TrainPosition, held: Sequence[Held]) -> None:
        file = self._hidden(position) / rank_file(self._rank)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file.with_suffix(HASH_SUFFIX), write_held(file, held))
        except OSError:
            file.unlink(missing_ok=True)
            raise

    def _publish(self, position: TrainPosition) -> None:
        hidden = self._hidden(position)
        try:
            hashes = {}
            for file in sorted(hidden.glob(RANK_FILES)):
                hashes[file.name] = read_json(file.with_suffix(HASH_SUFFIX))
                file.with_suffix(HASH_SUFFIX).unlink()
            publish_checkpoint(hidden, checkpoint_folder(self._folder, position), position, self._config, hashes)
        except OSError:
            self._clear_up(position)
            raise
        keep = (self._settings.keep_last, self._settings.keep_every_steps)
        prune_checkpoints(self._folder, position.stage, *keep)
        if self._store is not None:
            try:
                self._store.upload(checkpoint_folder(self._folder, position))
                self._store.prune(position.stage, *keep)
            except OSError as error:  # the one on the disk is good, and the next may get there
                self._warn(f"step {position.step} could not be copied to {self._store.address} ({error})")

    def _clear_up(self, position: TrainPosition) -> None:
        shutil.rmtree(self._hidden(position), ignore_errors=True)
