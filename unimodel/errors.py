"""Errors that are nobody's typing mistake: told in one line on the command line, without a traceback."""

from __future__ import annotations

import os
import signal
from pathlib import Path

AGENT_VARIABLE = "UNIMODEL_AGENT"
"""In the environment of processes that an agent has started: its process id and a folder, with a colon between."""
MISTAKE_SIGNAL = signal.SIGQUIT
"""Tells the agent that starting again would not help."""


class RunError(RuntimeError):
    """Something the user must know and act on, such as a run that is in use or an export that does not reload."""


class LostError(RunError):
    """Something outside went wrong (a process was killed, another rank is gone): the same command goes on."""


class Stopped(Exception):
    """The run was asked to stop and has saved; the message says how to go on. `by_hand`: by Ctrl-C, so nobody should
    start it again."""

    def __init__(self, message: str, *, by_hand: bool) -> None:
        super().__init__(message)
        self.by_hand = by_hand


def agent_pid() -> int | None:
    """The agent that has started this process, if one has."""
    agent = os.environ.get(AGENT_VARIABLE)
    return int(agent.split(":", 1)[0]) if agent else None


def is_first_to_fail() -> bool:
    """Whether no other process of this node's agent has told of a mistake: ranks mostly make one together, and one
    message is enough."""
    agent = os.environ.get(AGENT_VARIABLE)
    if agent is None:
        return True
    try:
        (Path(agent.split(":", 1)[1]) / "mistake").touch(exist_ok=False)
    except OSError:
        return False
    return True


def tell_agent_of_mistake() -> None:
    """Processes must not be started again for it."""
    agent = agent_pid()
    if agent is not None:
        os.kill(agent, MISTAKE_SIGNAL)
