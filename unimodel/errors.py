"""Errors that are nobody's typing mistake: told in one line on the command line, without a traceback."""

from __future__ import annotations


class RunError(RuntimeError):
    """Something the user must know and act on, such as a run that is in use or an export that does not reload."""


class Stopped(Exception):
    """The run was asked to stop and has saved; the message says how to go on."""
