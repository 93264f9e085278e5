"""Arrays from `.npy` bytes: numpy's own format and checks, with headers that were seen before not parsed again.

A shard has thousands of small arrays and a few distinct headers; parsing one costs ten times what the rest does.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache

import numpy as np

PREFIX_BYTES = 10
"""Magic string, version and header length of version 1.0, which numpy writes wherever it can."""
KNOWN_HEADERS = 4096


def decode_npy(payload: bytes) -> np.ndarray:
    """The array, read-only, without a copy. Raises ValueError for anything but a whole array of plain numbers."""
    header_end = PREFIX_BYTES + int.from_bytes(payload[8:PREFIX_BYTES], "little")
    try:
        dtype, shape, in_fortran_order = _parse_header(payload[:header_end])
    except Exception as error:  # numpy reads it as a Python literal: what goes wrong there has many types
        raise ValueError(f"not a header of the .npy format ({error})") from None
    # A header could promise any size: what is there decides.
    array = np.frombuffer(payload, dtype, offset=header_end)
    if min(shape, default=0) < 0 or array.size != math.prod(shape):
        raise ValueError(f"{array.size} values are there, {'x'.join(map(str, shape))} were promised")
    if len(shape) == 1:
        return array
    try:
        return array.reshape(shape, order="F" if in_fortran_order else "C")
    except OverflowError as error:  # 0 values of any shape
        raise ValueError(f"its shape is too large ({error})") from None


@lru_cache(maxsize=KNOWN_HEADERS)
def _parse_header(header: bytes) -> tuple[np.dtype, tuple[int, ...], bool]:
    stream = io.BytesIO(header)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"version {version} of the .npy format is not read here")
    shape, in_fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or dtype.itemsize == 0:
        raise ValueError(f"arrays of {dtype} are not read")
    return dtype, shape, in_fortran_order
