"""Episodes of a Minari dataset on this disk, read by the `minari` library; no environment of theirs is started."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from data_pipelines.extras import load_extra
from data_pipelines.sources.action_codes import (
    ActionCodes,
    discrete_actions,
    fit_action_codes,
    readable_actions,
    sample_actions,
    spread,
)
from data_pipelines.sources.files import find_inside
from data_pipelines.sources.item import UNREADABLE, Block, Dropped, EncodedSample
from data_pipelines.sources.settings import MinariSource
from data_pipelines.sources.trajectory import Trajectory, encode_windows

BLOCK_EPISODES = 16
SAMPLE_EPISODES = 64
"""Episodes whose actions the centres are fitted to: the library reads an episode with all its pictures."""
METADATA = "metadata.json"
VECTOR_SPACES = (gymnasium.spaces.Box, gymnasium.spaces.MultiDiscrete, gymnasium.spaces.MultiBinary)


def list_minari(source: MinariSource) -> list[Block]:
    """Blocks of neighbouring episodes.

    Raises FileNotFoundError or ValueError naming the folder when it is no Minari dataset or its observations and
    actions cannot be used, MissingExtraError when the library is not installed.
    """
    storage = _open(source)
    source.check_frame(*_pixels(source, storage.observation_space)[1].shape[:2])
    count = int(storage.total_episodes)
    try:
        actions = asdict(_action_codes(source, storage, count))
    except ValueError as error:
        raise ValueError(f"source.path {source.path}: {error}") from None
    data: Path = storage.data_path
    files = [path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()]
    size = sum(find_inside(data, name).stat().st_size for name in files)
    blocks = []
    for first in range(0, count, BLOCK_EPISODES):
        stop = min(count, first + BLOCK_EPISODES)
        place = {"first": first, "stop": stop, "dataset_bytes": size, "actions": actions}
        blocks.append(Block(f"episodes {first} .. {stop - 1}", place, stop - first))
    return blocks


def read_minari(source: MinariSource, provenance: dict[str, Any], block: Block) -> Iterator[EncodedSample | Dropped]:
    """The windows of every episode of a block; an episode that cannot be read is dropped."""
    storage, codes = _open(source), ActionCodes(**block.place["actions"])
    about = provenance | {"dataset": str(storage.read_raw_metadata(storage.data_path).get("dataset_id", ""))}
    for number in range(block.place["first"], block.place["stop"]):
        name = f"episode {number}"
        try:
            trajectory, frames = _trajectory(source, storage, codes, number, about)
            if not len(trajectory.actions):
                yield Dropped(name, "empty", "no step")
            else:
                yield from encode_windows(trajectory, frames, source.max_frames, source.size)
        except ValueError as error:
            yield Dropped(name, UNREADABLE, str(error))


def _open(source: MinariSource) -> Any:
    """The library's storage of a dataset."""
    library = load_extra("minari.dataset.minari_storage", "minari", "reading Minari datasets")
    load_extra("h5py", "minari", "reading Minari datasets")
    folder = source.path / "data" if (source.path / "data").is_dir() else source.path
    if not (folder / METADATA).is_file():
        raise FileNotFoundError(f"source.path {source.path} is no Minari dataset: it holds no data/{METADATA}")
    try:
        metadata = json.loads((folder / METADATA).read_bytes())
        # Without them the library would start the environment that the file names, which may be any code.
        missing = [name for name in ("observation_space", "action_space") if name not in metadata]
        storage = None if missing else library.MinariStorage.read(folder)
    except Exception as error:  # the library asserts and has many kinds
        raise ValueError(f"{folder / METADATA} cannot be used ({type(error).__name__}: {error})") from None
    if storage is None:
        raise ValueError(f"{folder / METADATA} does not tell {missing[0]}: write the dataset with a newer Minari")
    return storage


def _trajectory(
    source: MinariSource, storage: Any, codes: ActionCodes, number: int, about: dict[str, Any]
) -> tuple[Trajectory, np.ndarray]:
    """An episode and its frames uint8 [T+1, height, width, 3]. Raises ValueError when it cannot be read."""
    values = _read(storage, number)
    frames = _rgb(_at(values["observations"], _pixels(source, storage.observation_space)[0]))
    mission = _mission_key(storage.observation_space)
    missions = [""] if mission is None else [str(text) for text in _at(values["observations"], mission)]
    trajectory = Trajectory(
        key=f"episode-{number:06d}",
        name=f"episode {number}",
        actions=codes.encode(_stacked(values["actions"])),
        rewards=_stacked(values["rewards"]).reshape(-1).astype(np.float32),
        done=_stacked(values["terminations"]).reshape(-1).astype(np.bool_),
        missions=missions or [""],
        num_actions=codes.count,
        seed=_seed(storage, number),
        about=about | {"episode": number},
    )
    if len(frames) != len(trajectory.actions) + 1:
        raise ValueError(f"it has {len(frames)} observations for {len(trajectory.actions)} actions")
    return trajectory, frames


def _read(storage: Any, number: int) -> dict[str, Any]:
    """What the library gives of an episode. Raises ValueError when it cannot be read."""
    try:
        if storage.FORMAT == "hdf5":
            _check_links(storage.data_path, number)
        return next(iter(storage.get_episodes([number])))
    except Exception as error:  # h5py, pyarrow and Pillow have many kinds
        raise ValueError(f"not readable ({type(error).__name__}: {error})") from None


def _check_links(folder: Path, number: int) -> None:
    """Raises ValueError when an episode is not there or takes anything from elsewhere: HDF5 can link to other files."""
    import h5py

    name = f"episode_{number}"
    with h5py.File(folder / "main_data.hdf5", "r") as file:
        if name not in file:
            raise ValueError(f"there is no {name}")
        links = [(name, file.get(name, getlink=True))]
        if isinstance(links[0][1], h5py.HardLink):
            episode: Any = file[name]
            episode.visititems_links(lambda inside, link: links.append((f"{name}/{inside}", link)))
        for path, link in links:
            item: Any = file[path] if isinstance(link, h5py.HardLink) else None
            if item is None or (isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)):
                raise ValueError(f"{path} leads elsewhere: refused")


def _seed(storage: Any, number: int) -> int:
    """The seed of an episode's environment, 0 when nobody wrote it down."""
    try:
        seed = next(iter(storage.get_episode_metadata([number]))).get("seed")
        return 0 if seed is None else int(seed)
    except Exception as error:  # as above
        raise ValueError(f"its metadata cannot be read ({type(error).__name__}: {error})") from None


def _action_codes(source: MinariSource, storage: Any, count: int) -> ActionCodes:
    space = storage.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return discrete_actions(int(space.start), int(space.n))
    if not isinstance(space, VECTOR_SPACES):
        raise ValueError(
            f"actions of kind {type(space).__name__} cannot be used; Discrete, Box, MultiDiscrete and MultiBinary can"
        )
    chosen = spread(count, SAMPLE_EPISODES)
    found = readable_actions(lambda number: _stacked(_read(storage, number)["actions"]), chosen)
    return fit_action_codes(sample_actions(found, len(chosen)), source.action_codes)


def _pixels(source: MinariSource, space: gymnasium.Space) -> tuple[str, Any]:
    """(key, space) of the observation that is the picture; "" when it is all there is."""
    pictures = {key: leaf for key, leaf in _leaves(space) if _is_picture(leaf)}
    there = ", ".join(key or "the observation itself" for key in pictures) or "none"
    if source.observation is None and len(pictures) == 1:
        return next(iter(pictures.items()))
    if source.observation is None:
        raise ValueError(f"source.observation: name one of the pictures of {source.path}; there are: {there}")
    if source.observation not in pictures:
        raise ValueError(
            f"source.observation: {source.path} has no picture '{source.observation}' (uint8 [height, width, 3 or 1]); "
            f"there are: {there}"
        )
    return source.observation, pictures[source.observation]


def _mission_key(space: gymnasium.Space) -> str | None:
    """The observation that is what is asked for: the one called mission, or the only text."""
    texts = [key for key, leaf in _leaves(space) if key and isinstance(leaf, gymnasium.spaces.Text)]
    return "mission" if "mission" in texts else texts[0] if len(texts) == 1 else None


def _leaves(space: gymnasium.Space, key: str = "") -> Iterator[tuple[str, gymnasium.Space]]:
    """(key, space) of everything in a space, `a/b` for what lies in another."""
    if not isinstance(space, gymnasium.spaces.Dict):
        yield key, space
        return
    for name, part in space.spaces.items():
        yield from _leaves(part, f"{key}/{name}" if key else str(name))


def _is_picture(space: gymnasium.Space) -> bool:
    if not isinstance(space, gymnasium.spaces.Box) or space.dtype != np.uint8:
        return False
    return len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[2] in (1, 3))


def _at(values: Any, key: str) -> Any:
    for name in key.split("/") if key else ():
        if not isinstance(values, dict) or name not in values:
            raise ValueError(f"it has no observation '{key}'")
        values = values[name]
    return values


def _rgb(frames: Any) -> np.ndarray:
    """uint8 [T, height, width, 3] of frames in colour or grey."""
    frames = _stacked(frames)
    frames = frames[..., None] if frames.ndim == 3 else frames
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] not in (1, 3):
        raise ValueError(f"its pictures are {frames.dtype} {list(frames.shape[1:])}, not uint8 [height, width, 3]")
    return np.broadcast_to(frames, (*frames.shape[:3], 3))


def _stacked(values: Any) -> np.ndarray:
    """[T, ...]. Raises ValueError when they are no numbers of one shape."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or not array.ndim:
        raise ValueError(f"values of kind {array.dtype} where numbers are expected")
    return array
