"""Workers that die: noticed at once, told at one place, and never left behind by a main process that dies itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from data_pipelines.parent_death import die_with_parent

DEATH_WORDS, TIMEOUT_WORDS = "DataLoader worker", "DataLoader timed out"
"""How torch's errors about a dead or a hanging worker begin."""


class WorkerError(RuntimeError):
    """A worker was killed or hangs."""


@contextmanager
def death_watch() -> Iterator[None]:
    """A block in which workers are waited for; raises WorkerError when one is found dead, before or in it."""
    _watch.waiting = True
    try:
        _watch.tell()
        yield
        _watch.install()
    except (OSError, EOFError) as error:  # of a pipe that ends, or a tensor whose owner is gone
        raise WorkerError(f"{type(error).__name__}: {error}") from None
    except RuntimeError as error:
        if str(error).startswith(DEATH_WORDS):
            raise WorkerError(str(error)) from None
        raise
    finally:
        _watch.waiting = False


def is_timeout(error: RuntimeError) -> bool:
    """Whether torch says that nothing came in time."""
    return str(error).startswith(TIMEOUT_WORDS)


class _DeathWatch:
    """torch tells of a dead worker by raising from its SIGCHLD handler, at any line of the main process: in a
    destructor the error is lost, elsewhere it cuts through whatever goes on. This keeps it until a step is waited for.
    """

    def __init__(self) -> None:
        self.waiting = False
        self._error: RuntimeError | None = None
        self._torchs_handler: Callable[[int, FrameType | None], object] | None = None

    def install(self) -> None:
        """Once torch's own handler is there."""
        handler = signal.getsignal(signal.SIGCHLD)
        if handler == self._on_signal or threading.current_thread() is not threading.main_thread():
            return
        if callable(handler):
            self._torchs_handler = handler
            signal.signal(signal.SIGCHLD, self._on_signal)

    def forget(self) -> None:
        """Drops what was kept."""
        self._error = None

    def tell(self) -> None:
        """Raises what was kept."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        assert self._torchs_handler is not None
        try:
            self._torchs_handler(number, frame)
        except RuntimeError as error:
            if self.waiting:
                raise
            self._error = error


_watch = _DeathWatch()
"""One per process, as torch's handler is."""


def forget_death() -> None:
    """The workers were ended: how they died matters no more."""
    _watch.forget()


def prepare_worker(_: int) -> None:
    """Signals are the main process's to answer, and no worker outlives it: one that waits to hand over its result
    would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    die_with_parent()
