"""A training run as every launcher starts it: one command on each node, which starts that node's processes."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

REQUEUE = 75
"""Exit status of a run that was asked to stop, has saved, and wants to be started again (EX_TEMPFAIL of sysexits.h)."""
FAILED = 1
MISTAKE = 2
"""Exit status of a mistake of the user's: starting again would not help."""
DEFAULT_PORT = 29400


@dataclass(frozen=True, slots=True)
class Job:
    """What to train, on how many nodes and processes, and how often to start it again."""

    config: Path
    overrides: tuple[str, ...]
    nodes: int
    processes: int
    """Per node: one per GPU."""
    max_restarts: int
    stop_seconds: int
    """How long processes may take to save after they were asked to stop."""
    check: bool
    """Look at every node before the start."""

    @property
    def train_command(self) -> list[str]:
        """What each process runs."""
        check = ["--check"] if self.check else []
        return [sys.executable, "-m", "unimodel", "train", str(self.config), *check, *self._sets]

    @property
    def _sets(self) -> list[str]:
        return [part for override in self.overrides for part in ("--set", override)]

    def node_command(
        self, endpoint: str, *, address: str | None = None, python: str = sys.executable, follow_input: bool = False
    ) -> list[str]:
        """What each node runs. `endpoint` is HOST:PORT, where nodes meet, `address` how others reach this one; with
        `follow_input` the node stops when its standard input ends."""
        options = ["--nodes", str(self.nodes), "--processes", str(self.processes), "--endpoint", endpoint]
        options += ["--max-restarts", str(self.max_restarts), "--stop-seconds", str(self.stop_seconds)]
        options += ["--address", address] if address else []
        options += [] if self.check else ["--no-check"]
        options += ["--follow-input"] if follow_input else []
        return [python, "-m", "unimodel", "launch", "torchrun", str(self.config), *options, *self._sets]


def shell_line(command: list[str]) -> str:
    """A command as one would type it."""
    return shlex.join(command)


def devices_here() -> int:
    """GPUs of this machine, or 1 for its CPU."""
    import torch

    return torch.cuda.device_count() or 1


def working_folder() -> Path:
    """Where commands are started; nodes must see it under the same path."""
    return Path(os.getcwd())  # noqa: PTH109 - as the shell calls it, links and all
