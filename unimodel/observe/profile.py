"""A window of torch's profiler: a trace for chrome://tracing or Perfetto, and a table of what took longest."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from unimodel.observe.progress import say

TABLE_ROWS = 25


class ProfileWindow:
    """Records the steps `first` to `last` of this rank into `folder`; a window that is entered midway (a run that goes
    on) begins there."""

    def __init__(self, folder: Path, first: int, last: int, rank: int) -> None:
        self._folder, self._first, self._last, self._rank = folder, first, last, rank
        self._profiler: profile | None = None

    def step_begins(self, step: int) -> None:
        if self._profiler is None and self._first <= step <= self._last:
            cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._profiler = profile(activities=[ProfilerActivity.CPU, *cuda])
            self._profiler.start()

    def step_ended(self, step: int) -> None:
        if step >= self._last:
            self.close()

    def close(self) -> None:
        """Writes what was recorded, if anything."""
        if self._profiler is None:
            return
        recorded, self._profiler = self._profiler, None
        recorded.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        trace = self._folder / f"rank-{self._rank}.json.gz"
        recorded.export_chrome_trace(str(trace))
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = recorded.key_averages().table(sort_by=order, row_limit=TABLE_ROWS, max_name_column_width=60)
        trace.with_name(f"rank-{self._rank}.txt").write_text(table, encoding="utf-8")
        say(f"profile: {trace}", quiet=self._rank != 0)
