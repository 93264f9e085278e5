"""Films of somebody acting, each with a table of the actions beside it: `clip.mp4` and `clip.csv`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from data_pipelines.sources.action_codes import ActionCodes, discrete_actions, named_actions
from data_pipelines.sources.action_table import ActionTable, read_action_table
from data_pipelines.sources.files import caption_beside, file_blocks, find_inside, list_files, open_inside
from data_pipelines.sources.film_frames import FilmFrames, pixels
from data_pipelines.sources.item import UNREADABLE, Block, Dropped, EncodedSample, safe_key
from data_pipelines.sources.media import VIDEO_SUFFIXES, pyav
from data_pipelines.sources.settings import VideoActionsSource
from data_pipelines.sources.trajectory import Trajectory, encode_windows

BLOCK_FILES = 16
BLOCK_BYTES = 1 << 28


def list_video_actions(source: VideoActionsSource) -> list[Block]:
    """Blocks of films. All tables are read, to number the actions of all films alike.

    Raises FileNotFoundError when there is no film, ValueError naming file and row when no table can be used,
    MissingExtraError when PyAV is not installed.
    """
    pyav()
    if source.size is not None:
        source.check_frame(*source.size)
    files = list_files(source.path, VIDEO_SUFFIXES)
    blocks = file_blocks(source.path, files, max_files=BLOCK_FILES, max_bytes=BLOCK_BYTES)
    actions = asdict(_action_codes(source, [name for block in blocks for name in block.place["files"]]))
    for block in blocks:
        tables = [find_inside(source.path, _table_of(name)) for name in block.place["files"]]
        block.place["table_sizes"] = [table.stat().st_size if table.is_file() else 0 for table in tables]
        block.place["actions"] = actions
    return blocks


def read_video_actions(
    source: VideoActionsSource, provenance: dict[str, Any], block: Block
) -> Iterator[EncodedSample | Dropped]:
    """The windows of every film; one that cannot be read, or has no table that fits it, is dropped."""
    codes = ActionCodes(**block.place["actions"])
    for name in block.place["files"]:
        try:
            table = read_action_table(source.path, _table_of(name))
            trajectory = _trajectory(source, name, table, codes, provenance | {"file": name})
            yield from encode_windows(trajectory, _frames(source, name), source.max_frames, source.size)
        except ValueError as error:
            yield Dropped(name, UNREADABLE, str(error))


def _trajectory(
    source: VideoActionsSource, name: str, table: ActionTable, codes: ActionCodes, about: dict[str, Any]
) -> Trajectory:
    with open_inside(source.path, name) as film:
        times = []
        for time, decoded in FilmFrames(film, source.frames_per_second):
            if not times:
                source.check_frame(decoded.height, decoded.width)
            times.append(float(time))
    actions, rewards, done = table.between(times)
    numbers = {label: number for number, label in enumerate(codes.labels)}
    whole = [numbers[action] if numbers else int(action) for action in actions]
    return Trajectory(
        key=safe_key(name.rpartition(".")[0]),
        name=name,
        actions=codes.encode(np.array(whole)),
        rewards=rewards,
        done=done,
        missions=[(caption_beside(source.path, name) or b"").decode()],
        num_actions=codes.count,
        seed=0,
        about=about,
    )


def _frames(source: VideoActionsSource, name: str) -> Iterator[np.ndarray]:
    with open_inside(source.path, name) as film:
        for _, decoded in FilmFrames(film, source.frames_per_second):
            yield pixels(decoded, source.size)


def _action_codes(source: VideoActionsSource, films: list[str]) -> ActionCodes:
    """Whole numbers as they are, names in alphabetical order; of all tables that can be read."""
    found: set[str] = set()
    first: ValueError | None = None
    for name in films:
        try:
            found.update(read_action_table(source.path, _table_of(name)).actions)
        except ValueError as error:
            first = first or error
    if first is not None and not found:
        raise ValueError(f"source.path {source.path}: no table of actions can be used; {first}")
    try:
        numbers = [int(action) for action in found]
    except ValueError:
        return named_actions(found)
    return discrete_actions(min(numbers), max(numbers) - min(numbers) + 1)


def _table_of(film: str) -> str:
    return film.rpartition(".")[0] + ".csv"
