"""Tokenised episodes as WebDataset samples: what training reads instead of pictures and strings."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from data_pipelines.shards.npy import decode_npy
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.table import Lengths
from data_pipelines.sources.sample import NO_POSES, UNKNOWN_ACTION
from unimodel.tokenizers.unified import EpisodeShape, TokenisedEpisode

FIELD = "tokens.npy"
ARRAYS = ("grid", "frames", "audio", "actions", "rewards", "done", "mission", "caption_lengths", "captions")


class Captions(Sequence[np.ndarray]):
    """Captions that lie one after another in `ids`, cut apart when asked for: a sequence looks at one of them."""

    def __init__(self, ids: np.ndarray, bounds: Sequence[int]) -> None:
        self._ids, self._bounds = ids, bounds

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, number: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        number = range(len(self))[number]
        return self._ids[self._bounds[number] : self._bounds[number + 1]]


def encode_tokenised(episode: TokenisedEpisode) -> dict[str, bytes]:
    """One flat array: how long each of ARRAYS is, then all of them, one after another; uint16 where that holds them.

    A member for each would cost a reader more than everything else that it does for a sample. Rewards are the bits of
    float32 values, captions are concatenated, actions count from 1 with 0 for the unknown. The number of agents, where
    there are several, stands behind the grid, and their actions step by step. Events and poses, if there are any, stand
    behind all of that: how many events, the step of each, the length of each, and their ids; then how many numbers a
    pose has, and the bits of all of them.
    """
    arrays = {
        "grid": np.array([*episode.frames.shape, episode.audio.shape[1], *episode.actions.shape[1:]]),
        "frames": episode.frames.ravel(),
        "audio": episode.audio.ravel(),
        "actions": (episode.actions - UNKNOWN_ACTION).ravel(),
        "done": episode.done,
        "mission": episode.mission,
        "caption_lengths": np.array([len(caption) for caption in episode.captions]),
        "captions": np.concatenate(episode.captions),
    }
    events = _encode_events(episode.events)
    largest = max(int(array.max(initial=len(array))) for array in (*arrays.values(), events))
    dtype = np.uint16 if 2 * largest <= np.iinfo(np.uint16).max else np.uint32
    arrays["rewards"] = episode.rewards.astype(np.float32).view(dtype)
    poses = _encode_poses(episode.poses, dtype)
    events = np.zeros(1, dtype=np.int64) if len(poses) and not len(events) else events
    lengths = np.array([len(arrays[name]) for name in ARRAYS])
    buffer = io.BytesIO()
    values = np.concatenate([lengths, *(arrays[name] for name in ARRAYS), events, poses]).astype(dtype)
    np.lib.format.write_array(buffer, values, allow_pickle=False)
    return {FIELD: buffer.getvalue()}


def tokenised_lengths(episode: TokenisedEpisode) -> Lengths:
    """What the index says of it: enough to know the length of any sequence made from it."""
    events = [(step, len(ids)) for step, ids in episode.events]
    return {
        "frames": episode.num_frames,
        "grid": list(episode.frames.shape[1:]),
        "audio": episode.audio.shape[1],
        "outcome": 2 * int(not np.isnan(episode.rewards).any()),
        "mission": len(episode.mission),
        "captions": [len(caption) for caption in episode.captions],
        **({"agents": episode.actions.shape[1]} if episode.actions.ndim == 2 else {}),
        **({"event_steps": [step for step, _ in events], "events": [length for _, length in events]} if events else {}),
    }


def read_shape(reader: ShardReader, number: int) -> EpisodeShape:
    """The shape of sample `number`, from the index. Raises ValueError when the shards are not tokenised ones."""
    names = ("frames", "grid", "audio", "outcome", "mission", "captions")
    (frames,), (rows, columns), (audio,), (outcome,), (mission,), captions = reader.lengths(number, *names)
    event_steps, events, agents = reader.optional_lengths(number, "event_steps", "events", "agents")
    num_agents = agents[0] if agents else 1
    return EpisodeShape(frames, rows, columns, audio, outcome, mission, captions, event_steps, events, num_agents)


def decode_tokenised(key: str, fields: dict[str, bytes]) -> TokenisedEpisode:
    """The reverse of `encode_tokenised`. Raises ValueError naming the sample and what is wrong with it."""
    try:
        arrays, rest = _arrays(fields[FIELD])
        grid, frames, audio, actions, rewards, done, mission, caption_lengths, captions = arrays
        num_frames, rows, columns, codes, *agents = grid.tolist()
        actions = actions.astype(np.int64).reshape(-1, *agents) + UNKNOWN_ACTION
        rewards = rewards.view(np.float32)
        events, rest = _decode_events(rest, num_frames - 1)
        bounds = list(accumulate(caption_lengths.tolist(), initial=0))
        # Arrays that do not belong together must not reach the layouts, which index one by the other.
        if {len(actions), len(done), len(rewards)} != {num_frames - 1} or len(bounds) - 1 not in (1, num_frames):
            raise ValueError(
                f"{num_frames} frames, {len(bounds) - 1} captions, {len(actions)} actions, {len(rewards)} rewards and "
                f"{len(done)} done flags do not match"
            )
        if bounds[-1] != len(captions):
            raise ValueError("its caption lengths are damaged")
        return TokenisedEpisode(
            key=key,
            frames=frames.reshape(num_frames, rows, columns),
            audio=audio.reshape(num_frames, codes),
            actions=actions,
            rewards=rewards,
            done=done,
            mission=mission,
            captions=Captions(captions, bounds),
            events=events,
            poses=_decode_poses(rest, num_frames),
        )
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"sample {key}: field {FIELD} is missing or damaged ({error}): tokenise the data again"
        ) from None


def _encode_events(events: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
    if not events:
        return np.zeros(0, dtype=np.int64)
    steps, ids = zip(*events, strict=True)
    return np.concatenate([[len(events)], steps, list(map(len, ids)), *ids])


def _decode_events(values: np.ndarray, num_steps: int) -> tuple[tuple[tuple[int, np.ndarray], ...], np.ndarray]:
    """The events, and what stands behind them. Raises ValueError when they are not whole."""
    if not len(values):
        return (), values
    count = int(values[0])
    steps, lengths, ids = np.split(values[1:], [count, 2 * count])
    bounds = list(accumulate(lengths.tolist(), initial=0))
    if len(lengths) != count or bounds[-1] > len(ids) or steps.max(initial=0) >= num_steps:
        raise ValueError("its events are damaged")
    events = tuple((step, ids[a:b]) for step, a, b in zip(steps.tolist(), bounds, bounds[1:], strict=False))
    return events, ids[bounds[-1] :]


def _encode_poses(poses: np.ndarray, dtype: type[np.unsignedinteger]) -> np.ndarray:
    if not poses.size:
        return np.zeros(0, dtype=dtype)
    return np.concatenate([[poses.shape[1]], poses.astype(np.float32).ravel().view(dtype)])


def _decode_poses(values: np.ndarray, num_frames: int) -> np.ndarray:
    """Raises ValueError when they are not whole."""
    if not len(values):
        return NO_POSES
    bits = values[1:]
    if not values[0] or bits.nbytes != 4 * num_frames * int(values[0]):
        raise ValueError("its events or its poses are damaged")
    return bits.view(np.float32).reshape(num_frames, -1)


def _arrays(payload: bytes) -> tuple[list[np.ndarray], np.ndarray]:
    """ARRAYS, cut apart, and what stands behind them."""
    values = decode_npy(payload)
    if values.ndim != 1 or values.dtype not in (np.uint16, np.uint32):
        raise ValueError(f"{values.dtype} {list(values.shape)} where one flat array of uint16 or uint32 is expected")
    bounds = list(accumulate(values[: len(ARRAYS)].tolist(), initial=len(ARRAYS)))
    if bounds[-1] > len(values):
        raise ValueError(f"{len(values)} values are there, {bounds[-1]} were promised")
    return [values[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)], values[bounds[-1] :]
