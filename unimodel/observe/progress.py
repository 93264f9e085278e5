"""What a person sees while something runs: a progress bar on a terminal, a line now and then elsewhere, and log.txt."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_SECONDS = 15.0
FILE_COLUMNS = 140
"""Of a table in a file or pipe, which knows no width of its own: as the widest needs."""

console = Console(soft_wrap=True, highlight=False)
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = FILE_COLUMNS


class ProgressBar:
    """`with ProgressBar("recording", total) as bar: bar.advance(1, "3 shards")`.

    On a terminal it draws a bar; in a file or pipe it prints a line every 15 seconds and one at the end. Silent when
    `quiet` (ranks other than 0).
    """

    def __init__(self, title: str, total: int, *, start: int = 0, quiet: bool = False, log: Path | None = None) -> None:
        self._title, self._total, self._done, self._start = title, total, start, start
        self._quiet, self._log = quiet, log
        self._began = self._printed = time.monotonic()
        self._bar = None if quiet or not console.is_terminal else self._make_bar()

    def _make_bar(self) -> Progress:
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        return Progress(*columns, console=console)

    def __enter__(self) -> ProgressBar:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, completed=self._start, detail="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, steps: int, detail: str = "") -> None:
        """`steps` more units are done; `detail` is shown beside them."""
        if self._quiet:
            return
        self._done += steps
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, detail=detail)
        now = time.monotonic()
        if now - self._printed >= LINE_EVERY_SECONDS or self._done >= self._total:
            self._printed = now
            line = f"{self._title} {self._done}/{self._total} {detail} {self._time_left(now)}".rstrip()
            if self._bar is None:
                console.print(line)
            if self._log is not None:
                write_log(self._log, line)

    def _time_left(self, now: float) -> str:
        done = self._done - self._start
        if self._done >= self._total:
            return f"({_clock(now - self._began)})"
        return f"({_clock((now - self._began) / max(1, done) * (self._total - self._done))} left)"


def say(message: str, *, quiet: bool = False, log: Path | None = None) -> None:
    """One line to the person and to the log."""
    if quiet:
        return
    console.print(message)
    if log is not None:
        write_log(log, message)


def write_log(path: Path, line: str) -> None:
    """Appends a line with the time of day."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as handle:
        handle.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
