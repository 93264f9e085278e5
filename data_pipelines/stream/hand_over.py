"""What one process has made, handed to another as a file in memory: one copy in, none out, and no limit to its size.

A pickle with its arrays out of band (protocol 5), and those one after another behind it.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
import tempfile
from typing import Any, BinaryIO

ALIGNMENT = 64
"""Of arrays, in bytes."""
NUMBER_BYTES = 8


def write_out(made: Any) -> BinaryIO:
    """An open file, which has no name and ends with its last user, that holds `made`."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(made, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    head = pickle.dumps((pickled, [array.nbytes for array in arrays]))
    file = _nameless_file()
    file.write(len(head).to_bytes(NUMBER_BYTES, "little"))
    file.write(head)
    at = NUMBER_BYTES + len(head)
    for array in arrays:
        file.write(bytes(-at % ALIGNMENT))
        file.write(array)
        at = _aligned(at) + array.nbytes
    file.flush()
    return file


def read_in(handle: int) -> Any:
    """What `write_out` wrote. Its arrays are the file's memory, as long as they live; the handle is closed."""
    try:
        # Nobody else looks at this memory: it is the reader's to change.
        memory = memoryview(mmap.mmap(handle, 0))
    finally:
        os.close(handle)
    start, at = NUMBER_BYTES, NUMBER_BYTES + int.from_bytes(memory[:NUMBER_BYTES], "little")
    pickled, sizes = pickle.loads(memory[start:at])  # noqa: S301 - from our own worker
    buffers = []
    for size in sizes:
        at = _aligned(at)
        buffers.append(memory[at : at + size])
        at += size
    return pickle.loads(pickled, buffers=buffers)  # noqa: S301


def _nameless_file() -> BinaryIO:
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("batch", os.MFD_CLOEXEC), "wb")
    return tempfile.TemporaryFile()


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
