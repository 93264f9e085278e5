"""What the `meta` folder of a LeRobot dataset says: its features, its episodes and where they lie, its tasks.

v2.1  meta/episodes.jsonl, meta/tasks.jsonl; a table and a film per camera for every episode
v3.0  meta/episodes/*/*.parquet, meta/tasks.parquet; many episodes in a table and in a film
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from data_pipelines.sources.files import find_inside, open_inside, read_inside

INFO = "meta/info.json"
VERSIONS = ("v2.0", "v2.1", "v3.0")
_BLANK = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")


@dataclass(frozen=True, slots=True)
class LeRobotEpisode:
    """Where an episode lies.

    rows    of its table, one per frame
    table   name of a Parquet file, which may hold other episodes too
    film    name of a film of its camera; none when the pictures are in the table
    start   second of the film at which it begins
    frames  of the film that are its own, by the metadata; none when the film holds nothing else
    """

    index: int
    rows: int
    table: str
    film: str | None
    start: float
    frames: float | None


class LeRobotFolder:
    """A dataset folder. Raises FileNotFoundError or ValueError, naming the file, when it is none that can be read."""

    def __init__(self, root: Path) -> None:
        if not (root / INFO).is_file():
            raise FileNotFoundError(f"source.path {root} is no LeRobot dataset: it holds no {INFO}")
        self.root = root
        self._info = self._json(INFO, read_inside(root, INFO))
        version = self._info.get("codebase_version")
        if version not in VERSIONS:
            raise ValueError(f"{root / INFO}: version {version!r} cannot be read; {', '.join(VERSIONS)} can")
        self._is_v3 = version == "v3.0"
        fps = self._info.get("fps")
        if not isinstance(fps, int | float) or not 0 < fps < 1e4:
            raise ValueError(f"{root / INFO}: fps is {fps!r}, not frames per second")
        self.fps = float(fps)
        features = self._info.get("features")
        if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
            raise ValueError(f"{root / INFO}: features are missing")
        self.features: dict[str, dict[str, Any]] = features

    @property
    def tasks_file(self) -> str:
        return "meta/tasks.parquet" if self._is_v3 else "meta/tasks.jsonl"

    @property
    def robot(self) -> str:
        """Kind of robot; "" when nobody told."""
        return str(self._info.get("robot_type") or "")

    def camera(self, name: str) -> dict[str, Any]:
        """The feature of a camera. Raises ValueError, with those there are, when there is none of that name."""
        cameras = [key for key, feature in self.features.items() if feature.get("dtype") in ("video", "image")]
        if name not in cameras:
            there = ", ".join(sorted(cameras)) or "none"
            raise ValueError(f"source.camera: {self.root} has no camera '{name}'; there are: {there}")
        return self.features[name]

    def episodes(self, camera: str) -> list[LeRobotEpisode]:
        """Every episode as one camera saw it, in order."""
        rows = self._parquet_episodes(camera) if self._is_v3 else self._json_lines("meta/episodes.jsonl")
        place = self._place_v3 if self._is_v3 else self._place_v2
        is_film = self.camera(camera)["dtype"] == "video"
        found = []
        for row in rows:
            try:
                found.append(place(row, camera, is_film))
            except ValueError as error:
                raise ValueError(f"{self.root}/meta: episode {row.get('episode_index')}: {error}") from None
        return sorted(found, key=lambda episode: episode.index)

    @cached_property
    def tasks(self) -> dict[int, str]:
        """Texts by number."""
        name = self.tasks_file
        if not self._is_v3:
            rows = [(row.get("task_index"), row.get("task")) for row in self._json_lines(name)]
        else:
            # A data frame of the writer: the texts are its index, which older writers did not name.
            columns = self._parquet(name, None)
            texts = [column for column in ("task", "__index_level_0__") if column in columns]
            if not texts or "task_index" not in columns:
                raise ValueError(f"{self.root / name} has no task and task_index; it has {', '.join(columns)}")
            rows = list(zip(columns["task_index"], columns[texts[0]], strict=True))
        if not all(isinstance(number, int) and isinstance(text, str) for number, text in rows):
            raise ValueError(f"{self.root / name}: a task has no number or no text")
        return {int(number or 0): str(text) for number, text in rows}

    def open(self, name: str) -> BinaryIO:
        """A file of the dataset. Raises ValueError naming it when there is none or it lies outside."""
        return open_inside(self.root, name)

    def size(self, name: str) -> int:
        """Bytes of a file of the dataset; 0 when there is none, which is told when it is read."""
        path = self.root / name
        return path.stat().st_size if path.is_file() else 0

    def _place_v2(self, row: dict[str, Any], camera: str, is_film: bool) -> LeRobotEpisode:
        index, rows = _whole(row, "episode_index"), _whole(row, "length")
        values = {"episode_chunk": index // max(1, _whole(self._info, "chunks_size")), "episode_index": index}
        film = self._filled("video_path", values | {"video_key": camera}) if is_film else None
        return LeRobotEpisode(index, rows, self._filled("data_path", values), film, 0.0, None)

    def _place_v3(self, row: dict[str, Any], camera: str, is_film: bool) -> LeRobotEpisode:
        index, rows = _whole(row, "episode_index"), _whole(row, "length")
        table = self._filled("data_path", {name: _whole(row, f"data/{name}") for name in ("chunk_index", "file_index")})
        if not is_film:
            return LeRobotEpisode(index, rows, table, None, 0.0, None)
        place = f"videos/{camera}/"
        numbers = {name: _whole(row, place + name) for name in ("chunk_index", "file_index")}
        film = self._filled("video_path", numbers | {"video_key": camera})
        start, stop = _seconds(row, place + "from_timestamp"), _seconds(row, place + "to_timestamp")
        return LeRobotEpisode(index, rows, table, film, start, (stop - start) * self.fps)

    def _filled(self, template: str, values: Mapping[str, int | str]) -> str:
        """A file's name by a template of `info.json`, which is filled in here: `str.format` would look into objects."""
        text = self._info.get(template)

        def fill(blank: re.Match[str]) -> str:
            return str(values[blank[1]]).zfill(int(blank[2] or 0))

        try:
            name = _BLANK.sub(fill, text) if isinstance(text, str) else None
        except KeyError:
            name = None
        if name is None or "{" in name or "}" in name:
            raise ValueError(f"{INFO}: {template} is {text!r}; it may use {', '.join(sorted(values))}")
        try:
            find_inside(self.root, name)
        except ValueError as error:
            raise ValueError(f"{INFO}: {template}: {error}") from None
        return name

    def _parquet_episodes(self, camera: str) -> Iterator[dict[str, Any]]:
        wanted = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        wanted += [
            f"videos/{camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        ]
        files = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not files:
            raise ValueError(f"{self.root} holds no meta/episodes/*/*.parquet")
        for path in files:
            columns = self._parquet(path.relative_to(self.root).as_posix(), wanted)
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))

    def _parquet(self, name: str, wanted: list[str] | None) -> dict[str, list[Any]]:
        """Columns of a file of `meta`, those of `wanted` that it has."""
        try:
            with self.open(name) as file, pq.ParquetFile(file) as table:
                there = [column for column in table.schema_arrow.names if wanted is None or column in wanted]
                return table.read(there, use_threads=False).to_pydict()
        except Exception as error:  # pyarrow has many kinds
            raise ValueError(f"{self.root / name} is not a readable Parquet file ({error})") from None

    def _json_lines(self, name: str) -> Iterator[dict[str, Any]]:
        if not (self.root / name).is_file():
            raise ValueError(f"{self.root} holds no {name}")
        for number, line in enumerate(read_inside(self.root, name).splitlines()):
            if line.strip():
                yield self._json(f"{name}, line {number + 1}", line)

    def _json(self, name: str, content: bytes) -> dict[str, Any]:
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.root}/{name}: not valid JSON ({error})") from None
        if not isinstance(values, dict):
            raise ValueError(f"{self.root}/{name}: not a JSON object")
        return values


def _whole(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}, not a whole number")
    return value


def _seconds(values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    if not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ValueError(f"{name} is {value!r}, not seconds")
    return float(value)
