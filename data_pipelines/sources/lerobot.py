"""Episodes of a LeRobot dataset on this disk: actions from its tables, frames from the films of one camera."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.sources.action_codes import (
    ActionCodes,
    discrete_actions,
    fit_action_codes,
    readable_actions,
    sample_actions,
    spread,
)
from data_pipelines.sources.item import UNREADABLE, Block, Dropped, EncodedSample
from data_pipelines.sources.lerobot_folder import LeRobotEpisode, LeRobotFolder
from data_pipelines.sources.media import check_frame_size, frame_time, open_media, pyav
from data_pipelines.sources.picture import decode_picture
from data_pipelines.sources.settings import LeRobotSource
from data_pipelines.sources.trajectory import Trajectory, encode_windows

BLOCK_EPISODES = 16
SAMPLE_EPISODES = 256
SEEK_SECONDS = 1.0
"""How long before an episode its film is read: a seek goes by when frames are decoded, which is earlier than shown."""
REWARD, END, TASK = "next.reward", "next.done", "task_index"


def list_lerobot(source: LeRobotSource) -> list[Block]:
    """Blocks of neighbouring episodes.

    Raises FileNotFoundError or ValueError naming what is wrong when the folder is no LeRobot dataset, it has no such
    camera or actions, or its metadata contradict each other; MissingExtraError when PyAV is not installed.
    """
    folder = LeRobotFolder(source.path)
    if folder.camera(source.camera)["dtype"] == "video":
        pyav()
    _check_frames(source, folder)
    episodes = folder.episodes(source.camera)
    try:
        actions = asdict(_action_codes(source, folder, episodes))
    except ValueError as error:
        raise ValueError(f"source.path {source.path}: {error}") from None
    sizes = {name: folder.size(name) for episode in episodes for name in (episode.table, episode.film) if name}
    tasks = folder.size(folder.tasks_file)
    blocks = []
    for first in range(0, len(episodes), BLOCK_EPISODES):
        some = episodes[first : first + BLOCK_EPISODES]
        bytes_ = [[sizes[name] for name in (episode.table, episode.film) if name] for episode in some]
        place = {"episodes": [asdict(episode) for episode in some], "bytes": bytes_, "tasks_bytes": tasks}
        name = f"episodes {some[0].index} .. {some[-1].index}"
        blocks.append(Block(name, place | {"actions": actions}, len(some)))
    return blocks


def read_lerobot(source: LeRobotSource, provenance: dict[str, Any], block: Block) -> Iterator[EncodedSample | Dropped]:
    """The windows of every episode of a block; an episode that cannot be read is dropped."""
    folder, codes = LeRobotFolder(source.path), ActionCodes(**block.place["actions"])
    about = provenance | {"robot": folder.robot, "camera": source.camera, "frames_per_second": folder.fps}
    for place in block.place["episodes"]:
        episode = LeRobotEpisode(**place)
        name = f"episode {episode.index}"
        try:
            if episode.rows < 2:
                yield Dropped(name, "empty", "no step")
                continue
            table = _rows(folder, episode, _columns(source, folder))
            trajectory = _trajectory(source, folder, codes, episode, table, about)
            frames = _film_frames(folder, episode) if episode.film else _table_frames(table, source.camera)
            yield from encode_windows(trajectory, frames, source.max_frames, source.size)
        except ValueError as error:
            yield Dropped(name, UNREADABLE, str(error))


def _check_frames(source: LeRobotSource, folder: LeRobotFolder) -> None:
    """Raises ValueError when windows of the camera's frames would be too large."""
    shape = folder.camera(source.camera).get("shape")
    if not isinstance(shape, list) or len(shape) != 3 or not all(isinstance(side, int) for side in shape):
        raise ValueError(f"{source.path}/meta/info.json: the shape of {source.camera} is {shape!r}, not three numbers")
    # Some writers put the channels first.
    source.check_frame(*(shape[1:] if shape[0] in (1, 3) else shape[:2]))


def _columns(source: LeRobotSource, folder: LeRobotFolder) -> list[str]:
    """What is read of a table."""
    there = [name for name in (REWARD, END, TASK) if name in folder.features]
    picture = [source.camera] if folder.camera(source.camera)["dtype"] == "image" else []
    return ["episode_index", "frame_index", source.action, *there, *picture]


def _trajectory(
    source: LeRobotSource,
    folder: LeRobotFolder,
    codes: ActionCodes,
    episode: LeRobotEpisode,
    table: pa.Table,
    about: dict[str, Any],
) -> Trajectory:
    """N frames and the N - 1 actions between them.

    Row t holds frame t and the action taken then. Nobody saw where the last action led: it is left out, and its reward
    and end arrive with the last frame.
    """
    steps = table.num_rows - 1
    rewards = np.full(steps, np.nan, dtype=np.float32)
    if REWARD in table.column_names:
        told = _numbers(table, REWARD).reshape(-1).astype(np.float32)
        rewards = told[:-1].copy()
        rewards[-1] += told[-1]
    done = np.zeros(steps, dtype=np.bool_)
    done[-1] = True
    if END in table.column_names:
        ends = _numbers(table, END).reshape(-1).astype(np.bool_)
        done = ends[:-1].copy()
        done[-1] |= ends[-1]
    missions = [""]
    if TASK in table.column_names:
        missions = [folder.tasks.get(int(number), "") for number in _numbers(table, TASK).reshape(-1)]
    return Trajectory(
        key=f"episode-{episode.index:06d}",
        name=f"episode {episode.index}",
        actions=codes.encode(_numbers(table, source.action)[:-1]),
        rewards=rewards,
        done=done,
        missions=missions,
        num_actions=codes.count,
        seed=0,
        about=about | {"episode": episode.index},
    )


def _action_codes(source: LeRobotSource, folder: LeRobotFolder, episodes: list[LeRobotEpisode]) -> ActionCodes:
    """Single whole numbers are taken as they are, which all tables must be read for; vectors are sampled."""
    feature = folder.features.get(source.action)
    if feature is None:
        there = ", ".join(sorted(name for name in folder.features if "action" in name)) or "none"
        raise ValueError(f"source.action: it has no feature '{source.action}'; those called like it: {there}")
    discrete = str(feature.get("dtype", "")).startswith(("int", "uint")) and feature.get("shape") == [1]
    chosen = range(len(episodes)) if discrete else spread(len(episodes), SAMPLE_EPISODES)

    def read(number: int) -> np.ndarray:
        rows = _rows(folder, episodes[number], ["episode_index", "frame_index", source.action])
        return _numbers(rows, source.action)[:-1]

    found = readable_actions(read, chosen)
    if not discrete:
        return fit_action_codes(sample_actions(found, len(chosen)), source.action_codes, _names(feature))
    ends = [(int(actions.min()), int(actions.max())) for actions in found if len(actions)]
    if not ends:
        raise ValueError("no episode has an action")
    smallest, largest = min(low for low, _ in ends), max(high for _, high in ends)
    return discrete_actions(smallest, largest - smallest + 1)


def _names(feature: dict[str, Any]) -> list[str]:
    """Names of the controls, given as a list or as the only list of an object."""
    names = feature.get("names")
    if isinstance(names, dict) and len(names) == 1:
        names = next(iter(names.values()))
    return [str(name) for name in names] if isinstance(names, list) else []


def _rows(folder: LeRobotFolder, episode: LeRobotEpisode, columns: list[str]) -> pa.Table:
    """The rows of an episode, one per frame. Raises ValueError naming the table when they are not all there."""
    table = _table(folder, episode, columns)
    if table.num_rows != episode.rows:
        raise ValueError(f"{episode.table} has {table.num_rows} rows of it where meta/episodes says {episode.rows}")
    if _numbers(table, "frame_index").tolist() != list(range(episode.rows)):
        raise ValueError(f"{episode.table}: its frame_index does not count from 0 to {episode.rows - 1}")
    return table


def _table(folder: LeRobotFolder, episode: LeRobotEpisode, columns: list[str]) -> pa.Table:
    try:
        with folder.open(episode.table) as file:
            there = pq.read_schema(file).names
            if missing := [name for name in columns if name not in there]:
                raise ValueError(f"{episode.table} has no column '{missing[0]}'; it has {', '.join(sorted(there))}")
            file.seek(0)
            wanted = [("episode_index", "==", episode.index)]
            return pq.read_table(file, columns=columns, filters=wanted, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{episode.table} is not readable ({type(error).__name__}: {error})") from None


def _numbers(table: pa.Table, column: str) -> np.ndarray:
    """[rows, ...] a column. Raises ValueError when it holds anything but numbers of one shape."""
    try:
        values = np.asarray(table.column(column).to_pylist())
    except ValueError:
        raise ValueError(f"column {column} has rows of different lengths") from None
    if values.dtype.kind not in "biuf":
        raise ValueError(f"column {column} holds {values.dtype} where numbers are expected")
    return values


def _table_frames(table: pa.Table, camera: str) -> Iterator[np.ndarray]:
    """uint8 [height, width, 3] of every row."""
    for value in table.column(camera):
        picture = value.as_py()
        payload = picture.get("bytes") if isinstance(picture, dict) else None
        if not isinstance(payload, bytes):
            raise ValueError(f"column {camera} holds no bytes of a picture")
        yield decode_picture(payload)


def _film_frames(folder: LeRobotFolder, episode: LeRobotEpisode) -> Iterator[np.ndarray]:
    """uint8 [height, width, 3] of every row: frame t stands at its second of the film, within half a frame.

    Raises ValueError naming the film when one is missing or when it has another number of them.
    """
    assert episode.film is not None
    half, count = 0.5 / folder.fps, 0
    with folder.open(episode.film) as file, open_media(file) as container:
        if not container.streams.video:
            raise ValueError(f"{episode.film} has no picture")
        stream = container.streams.video[0]
        check_frame_size(stream.codec_context)
        frames = (stream.frames or episode.rows) if episode.frames is None else episode.frames
        if abs(frames - episode.rows) > 0.5:
            raise ValueError(
                f"{episode.film} has {frames:g} frames of it where {episode.table} has {episode.rows} rows"
            )
        if episode.start:
            container.seek(int(max(0.0, episode.start - SEEK_SECONDS) / stream.time_base), stream=stream)
        for decoded in container.decode(stream):
            time = float(frame_time(decoded)) - episode.start
            if time < -half:
                continue
            if count == episode.rows:
                break
            if abs(time - count / folder.fps) > half:
                raise ValueError(f"{episode.film}: frame {count} stands at second {time:.3f} of the episode")
            yield decoded.to_ndarray(format="rgb24")
            count += 1
    if count < episode.rows:
        raise ValueError(f"{episode.film} ends after {count} of {episode.rows} frames")
