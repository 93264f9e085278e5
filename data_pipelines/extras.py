"""Libraries that come with an extra of the package, loaded where they are needed."""

from __future__ import annotations

import importlib
from typing import Any


class MissingExtraError(RuntimeError):
    """A library is not installed. No ValueError: nothing is wrong with the sample that needed it."""


def load_extra(module: str, extra: str, purpose: str) -> Any:
    """The module. Raises MissingExtraError saying what needs it and how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        raise MissingExtraError(f"{purpose} needs {library}: pip install 'unimodel[{extra}]'") from None
