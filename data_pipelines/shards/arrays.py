"""Several arrays in one safetensors file or field, read as views: nothing is copied and nothing can carry code.

Thousands of small files share a few headers; what a header says is worked out once.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

HEADER_BYTES = 8
MAX_HEADER_BYTES = 1 << 20
KNOWN_HEADERS = 4096
DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "I32": np.int32,
    "I64": np.int64,
    "F32": np.float32,
}


class _Place(NamedTuple):
    """One array: its bytes begin `start` bytes behind the header."""

    name: str
    dtype: np.dtype
    start: int
    count: int
    shape: tuple[int, ...] | None
    """None when it is flat."""


def view_arrays(content: bytes | memoryview) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays, read-only, and the metadata of a safetensors file (whose own reader would copy them).

    Raises ValueError for anything else, also when an array lies outside of what is there.
    """
    header_end = HEADER_BYTES + int.from_bytes(content[:HEADER_BYTES], "little")
    if header_end > min(MAX_HEADER_BYTES, len(content)):
        raise ValueError("the header is damaged")
    try:
        places, metadata = _parse_header(bytes(content[HEADER_BYTES:header_end]))
        arrays = {}
        for name, dtype, start, count, shape in places:
            array = np.frombuffer(content, dtype, count, header_end + start)
            arrays[name] = array if shape is None else array.reshape(shape)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"not a whole safetensors file ({type(error).__name__}: {error})") from None
    return arrays, metadata


@lru_cache(maxsize=KNOWN_HEADERS)
def _parse_header(header: bytes) -> tuple[tuple[_Place, ...], dict[str, str]]:
    about = json.loads(header)
    metadata = about.pop("__metadata__", {})
    return tuple(_place(name, **entry) for name, entry in about.items()), metadata


def _place(name: str, dtype: str, shape: list[int], data_offsets: list[int]) -> _Place:
    start, stop = data_offsets
    count = math.prod(shape)
    if min(start, *shape, 0) < 0 or stop - start != count * np.dtype(DTYPES[dtype]).itemsize:
        raise ValueError(f"array {name} does not fill its place")
    return _Place(name, np.dtype(DTYPES[dtype]), start, count, None if len(shape) == 1 else tuple(shape))
