"""Random damage to the files of a data set and to the bytes of a field."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILES = {".tar": 8, ".idx": 3, ".json": 2}
"""How often which kind of file is damaged; they differ in size a hundredfold."""


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix in FILES}


@contextmanager
def damaged_files(files: dict[Path, bytes], chooser: random.Random) -> Iterator[list[Path]]:
    """One random damage to the files on disk; yields those whose bytes differ, and restores them."""
    paths = list(files)
    path = chooser.choices(paths, [FILES[path.suffix] for path in paths])[0]
    changed = {path: damaged(files[path], chooser)}
    if chooser.random() < 0.1:
        other = chooser.choice([other for other in paths if other.suffix == path.suffix])
        changed = {path: files[other], other: files[path]}
    changed = {path: content for path, content in changed.items() if content != files[path]}
    for path, content in changed.items():
        path.write_bytes(content)
    if chooser.random() < 0.02:
        path.unlink()
        changed[path] = b""
    try:
        yield list(changed)
    finally:
        for path in changed:
            path.write_bytes(files[path])


def damaged(content: bytes, chooser: random.Random) -> bytes:
    """Bits flipped, bytes overwritten, cut, removed, inserted, or blocks exchanged."""
    kind = chooser.choice(["flip", "overwrite", "zero", "cut", "remove", "insert", "append", "swap"])
    start = chooser.randrange(len(content)) if content else 0
    length = chooser.choice([1, 4, 64, 512, 2048])
    stop = min(start + length, len(content))
    match kind:
        case "flip":
            result = bytearray(content)
            for _ in range(chooser.choice([1, 1, 1, 2, 8])):
                result[chooser.randrange(len(result))] ^= 1 << chooser.randrange(8)
            return bytes(result)
        case "overwrite":
            return content[:start] + chooser.randbytes(stop - start) + content[stop:]
        case "zero":
            return content[:start] + bytes(stop - start) + content[stop:]
        case "cut":
            return content[:start]
        case "remove":
            return content[:start] + content[stop:]
        case "insert":
            return content[:start] + chooser.randbytes(length) + content[start:]
        case "append":
            return content + chooser.randbytes(length)
        case _:
            # Members swap places: a tar is made of blocks of 512 bytes.
            size = 512 if len(content) >= 1024 else max(1, len(content) // 4)
            one, other = sorted(chooser.sample(range(len(content) // size), 2))
            a, b = content[one * size :][:size], content[other * size :][:size]
            between = content[(one + 1) * size : other * size]
            return content[: one * size] + b + between + a + content[(other + 1) * size :]
