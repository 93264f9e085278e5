"""LeRobot dataset folders, v2.1 and v3.0, written as the format's own tools write them: pandas, pyarrow and PyAV."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CAMERA = "observation.images.top"
FPS = 10
SIDE = 64
TASKS = ("push the cube", "open the drawer")
LENGTHS = (12, 7, 10)


def frame(episode: int, number: int) -> np.ndarray:
    """Grey above tells the frame, grey below the episode."""
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    picture[: SIDE // 2] = 20 + 16 * number
    picture[SIDE // 2 :] = 40 + 20 * episode
    return picture


def place_of(picture: np.ndarray) -> tuple[int, int]:
    """(episode, number) of a frame that a film may have changed a little."""
    above, below = picture[4:28].mean(), picture[36:60].mean()
    number, episode = round((above - 20) / 16), round((below - 40) / 20)
    assert abs(above - 20 - 16 * number) < 5 and abs(below - 40 - 20 * episode) < 5
    return episode, number


def actions(episode: int, length: int) -> np.ndarray:
    """float32 [length, 2], all of them different."""
    number = np.arange(length)
    return np.stack([0.25 * number + 10 * episode, -0.5 * number], axis=1).astype(np.float32)


def table(episode: int, length: int, first: int, taken: np.ndarray, outcomes: bool = True) -> pa.Table:
    """The rows of an episode. Reward t is t + 1; the last row ends it."""
    number = np.arange(length)
    vector = pa.list_(pa.float32(), 2)
    columns: dict[str, Any] = {
        "observation.state": pa.array(list(np.zeros((length, 2), np.float32)), vector),
        "action": pa.array(list(taken), vector) if taken.ndim == 2 else pa.array(taken),
        "timestamp": pa.array((number / FPS).astype(np.float32)),
        "frame_index": pa.array(number),
        "episode_index": pa.array(np.full(length, episode)),
        "index": pa.array(first + number),
        "task_index": pa.array(np.full(length, episode % len(TASKS))),
    }
    if outcomes:
        columns["next.reward"] = pa.array((number + 1).astype(np.float32))
        columns["next.done"] = pa.array(number == length - 1)
    return pa.table(columns)


def with_pictures(rows: pa.Table, episode: int) -> pa.Table:
    """The same with the camera's pictures in the table."""
    pictures = []
    for number in range(rows.num_rows):
        png = io.BytesIO()
        Image.fromarray(frame(episode, number)).save(png, "PNG")
        pictures.append({"bytes": png.getvalue(), "path": f"frame-{number:06d}.png"})
    return rows.append_column(CAMERA, pa.array(pictures, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))


@contextmanager
def usual_scheduling() -> Iterator[None]:
    """Run by root, SVT-AV1 makes whoever calls it a real-time process: it and all that it starts from then on would
    leave the other processes of the machine no time."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def write_video(path: Path, frames: Iterable[np.ndarray], codec: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with usual_scheduling(), av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            codec, FPS, options={"g": "2" if codec == "libsvtav1" else "250", "crf": "20"}
        )
        stream.pix_fmt, stream.width, stream.height = "yuv420p", SIDE, SIDE
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def write_info(folder: Path, version: str, rows: pa.Table, dtype: str, **changes: Any) -> None:
    features: dict[str, Any] = {}
    for name in rows.column_names:
        kind = rows.schema.field(name).type
        is_vector = pa.types.is_fixed_size_list(kind)
        features[name] = {
            "dtype": str(kind.value_type if is_vector else kind)
            .replace("float", "float32")
            .replace("double", "float64"),
            "shape": [kind.list_size] if is_vector else [1],
            "names": ["shoulder", "elbow"] if name == "action" and is_vector else None,
        }
    features[CAMERA] = {"dtype": dtype, "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channels"]}
    info: dict[str, Any] = {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "total_tasks": len(TASKS),
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": f"0:{len(LENGTHS)}"},
    }
    if version == "v3.0":
        info |= {
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        }
    else:
        info |= {
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        }
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    (folder / "meta/info.json").write_text(json.dumps(info | {"features": features} | changes, indent=4))


def write_v21(folder: Path, tables: list[pa.Table]) -> None:
    """A table and a film for every episode."""
    write_info(folder, "v2.1", tables[0], "video")
    lines = [json.dumps({"task_index": number, "task": task}) for number, task in enumerate(TASKS)]
    (folder / "meta/tasks.jsonl").write_text("\n".join(lines) + "\n")
    episodes = []
    for episode, rows in enumerate(tables):
        length = rows.num_rows
        episodes.append({"episode_index": episode, "tasks": [TASKS[episode % len(TASKS)]], "length": length})
        (folder / "data/chunk-000").mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, folder / f"data/chunk-000/episode_{episode:06d}.parquet")
        film = folder / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"
        write_video(film, (frame(episode, number) for number in range(length)), "libx264")
    (folder / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in episodes))


def write_v30(
    folder: Path,
    tables: list[pa.Table],
    codec: str = "libsvtav1",
    pictures: bool = False,
    tasks_name: str | None = None,
) -> None:
    """Episode 0 and the others in two tables; the last one and the others in two films."""
    write_info(folder, "v3.0", tables[0], "image" if pictures else "video")
    pandas.DataFrame({"task_index": range(len(TASKS))}, index=pandas.Index(TASKS, name=tasks_name)).to_parquet(
        folder / "meta/tasks.parquet"
    )
    last = len(tables) - 1
    (folder / "data/chunk-000").mkdir(parents=True, exist_ok=True)
    shown = [with_pictures(rows, episode) if pictures else rows for episode, rows in enumerate(tables)]
    pq.write_table(shown[0], folder / "data/chunk-000/file-000.parquet")
    with pq.ParquetWriter(folder / "data/chunk-000/file-001.parquet", shown[0].schema) as writer:
        for rows in shown[1:]:
            writer.write_table(rows)  # a row group for each
    if not pictures:
        for file, some in enumerate((range(last), range(last, last + 1))):
            frames = (frame(episode, number) for episode in some for number in range(tables[episode].num_rows))
            write_video(folder / f"videos/{CAMERA}/chunk-000/file-{file:03d}.mp4", frames, codec)
    episodes, index, second = [], 0, 0.0
    for episode, rows in enumerate(tables):
        length = rows.num_rows
        second = 0.0 if episode == last else second
        row: dict[str, Any] = {
            "episode_index": episode,
            "tasks": [TASKS[episode % len(TASKS)]],
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": int(episode > 0),
            "dataset_from_index": index,
            "dataset_to_index": index + length,
            "stats/action/mean": [0.0, 0.0],
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        if not pictures:
            row |= {f"videos/{CAMERA}/chunk_index": 0, f"videos/{CAMERA}/file_index": int(episode == last)}
            row |= {f"videos/{CAMERA}/from_timestamp": second, f"videos/{CAMERA}/to_timestamp": second + length / FPS}
        episodes.append(row)
        index, second = index + length, second + length / FPS
    (folder / "meta/episodes/chunk-000").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(episodes), folder / "meta/episodes/chunk-000/file-000.parquet")


def write_lerobot(
    folder: Path, version: str, outcomes: bool = True, lengths: tuple[int, ...] = LENGTHS, codec: str = "libsvtav1"
) -> None:
    """The usual dataset."""
    starts = [sum(lengths[:episode]) for episode in range(len(lengths))]
    tables = [
        table(episode, length, start, actions(episode, length), outcomes)
        for episode, (length, start) in enumerate(zip(lengths, starts, strict=True))
    ]
    if version == "v3.0":
        write_v30(folder, tables, codec)
    else:
        write_v21(folder, tables)
