"""Files of a source folder, in a fixed order, and the captions beside them; nothing outside the folder is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from data_pipelines.sources.fields import CAPTION_KEYS, caption_in
from data_pipelines.sources.item import Block, checked_text

MAX_CAPTION_BYTES = 1 << 24
MAX_FILE_BYTES = 1 << 30
"""Largest picture or sound file that is read into memory at once."""


def list_files(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """Every file under `root` with one of these suffixes, sorted by relative name; `root` itself may be one.

    Hidden files are left out and linked folders are not entered. Raises FileNotFoundError when there is none.
    """
    if root.is_file():
        return [root]
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(folder, name) for name in names if not name.startswith(".") and name.lower().endswith(tuple(suffixes))
        ]
    if not found:
        what = f"holds no {', '.join(suffixes)} file" if root.is_dir() else "does not exist"
        raise FileNotFoundError(f"source.path {root} {what}")
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def file_blocks(root: Path, files: Iterable[Path], *, max_files: int, max_bytes: int) -> list[Block]:
    """Neighbouring files in blocks; the place is their names under `root`, and sizes that the fingerprint sees."""
    blocks: list[Block] = []
    names: list[str] = []
    sizes: list[int] = []

    def close() -> None:
        if names:
            place = {"files": list(names), "sizes": list(sizes)}
            blocks.append(Block(f"{names[0]} .. {names[-1]}", place, len(names)))
            names.clear()
            sizes.clear()

    for file in files:
        size = file.stat().st_size if file.is_file() else 0  # a broken link is named when it is read
        if names and (len(names) >= max_files or sum(sizes) + size > max_bytes):
            close()
        names.append(relative_name(root, file))
        sizes.append(size)
    close()
    return blocks


def relative_name(root: Path, file: Path) -> str:
    """How a file is called for people and in keys: its place under the source."""
    return file.name if file == root else file.relative_to(root).as_posix()


def find_inside(root: Path, name: str) -> Path:
    """The file `name` under `root`. Raises ValueError when it would lead out of it, also through links."""
    base = root.parent if root.is_file() else root
    path = base / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(_resolved(base)):
        raise ValueError(f"{name!r} leads out of the source folder: refused")
    return path


@lru_cache(maxsize=16)
def _resolved(base: Path) -> Path:
    return base.resolve()


def open_inside(root: Path, name: str) -> BinaryIO:
    """The plain file `name` under `root`, to read. Raises ValueError as `find_inside` and when there is none."""
    path = find_inside(root, name)
    if not path.is_file():
        raise ValueError(f"there is no plain file {name!r}")
    return path.open("rb")


def read_inside(root: Path, name: str) -> bytes:
    """The content of the file `name` under `root`. Raises ValueError as `open_inside` and when it is too large."""
    path = find_inside(root, name)
    if not path.is_file():
        raise ValueError(f"there is no plain file {name!r}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"the file is larger than {MAX_FILE_BYTES} bytes")
    return path.read_bytes()


def caption_beside(root: Path, name: str) -> bytes | None:
    """The caption of a file: STEM.txt, or STEM.json with "caption" or "text". None when there is neither.

    Raises ValueError naming the caption's file when it cannot be used.
    """
    stem = name.rpartition(".")[0] or name
    for suffix in (".txt", ".json"):
        caption = stem + suffix
        if caption == name or not find_inside(root, caption).is_file():
            continue
        payload = read_inside(root, caption)
        if len(payload) > MAX_CAPTION_BYTES:
            raise ValueError(f"its caption {caption} is larger than {MAX_CAPTION_BYTES} bytes")
        try:
            return checked_text(payload) if suffix == ".txt" else caption_of_json(payload)
        except ValueError as error:
            raise ValueError(f"its caption {caption}: {error}") from None
    return None


def caption_of_json(payload: bytes) -> bytes:
    """The caption in a JSON object. Raises ValueError when there is none."""
    try:
        values = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error})") from None
    caption = caption_in(values)
    if caption is None:
        raise ValueError(f"no text under {' or '.join(CAPTION_KEYS)}")
    return checked_text(caption)
