"""Tokenised episodes as WebDataset samples: what training reads instead of pictures and strings."""

from __future__ import annotations

import io

import numpy as np

from data_pipelines.shards.npy import decode_npy
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.table import Lengths
from unimodel.tokenizers.unified import EpisodeShape, TokenisedEpisode

FIELDS = ("frames", "actions", "rewards", "done", "mission", "captions", "caption_lengths")


def encode_tokenised(episode: TokenisedEpisode) -> dict[str, bytes]:
    """One `.npy` member per field; captions are concatenated, with their lengths beside them."""
    arrays = {
        "frames": episode.frames.astype(np.uint16),
        "actions": episode.actions.astype(np.int64),
        "rewards": episode.rewards.astype(np.float32),
        "done": episode.done.astype(bool),
        "mission": episode.mission.astype(np.uint32),
        "captions": np.concatenate(episode.captions).astype(np.uint32),
        "caption_lengths": np.asarray([len(caption) for caption in episode.captions], dtype=np.uint32),
    }
    return {f"{name}.npy": _to_npy(arrays[name]) for name in FIELDS}


def tokenised_lengths(episode: TokenisedEpisode) -> Lengths:
    """What the index says of it: enough to know the length of any sequence made from it."""
    return {
        "frames": episode.num_frames,
        "grid": list(episode.frames.shape[1:]),
        "mission": len(episode.mission),
        "captions": [len(caption) for caption in episode.captions],
    }


def read_shape(reader: ShardReader, number: int) -> EpisodeShape:
    """The shape of sample `number`, from the index. Raises ValueError when the shards are not tokenised ones."""
    (rows, columns), mission, captions = (reader.length(number, name) for name in ("grid", "mission", "captions"))
    return EpisodeShape(len(captions), int(rows), int(columns), int(mission[0]), captions)


def decode_tokenised(key: str, fields: dict[str, bytes]) -> TokenisedEpisode:
    """The reverse of `encode_tokenised`. Raises ValueError naming the sample and field that cannot be read."""
    arrays = {name: _from_npy(key, name, fields) for name in FIELDS}
    _check_shapes(key, arrays)
    ends = np.cumsum(arrays["caption_lengths"], dtype=np.int64).tolist()
    captions = arrays["captions"].astype(np.int64)
    return TokenisedEpisode(
        key=key,
        frames=arrays["frames"].astype(np.int64),
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        done=arrays["done"],
        mission=arrays["mission"].astype(np.int64),
        captions=tuple(captions[start:stop] for start, stop in zip([0, *ends], ends, strict=False)),
    )


def _check_shapes(key: str, arrays: dict[str, np.ndarray]) -> None:
    """Fields that do not belong together must not reach the layouts, which index one by the other."""
    frames, lengths = arrays["frames"], arrays["caption_lengths"]
    kinds = {"frames": "u", "actions": "i", "rewards": "f", "done": "b", "mission": "u", "captions": "u"}
    for name, kind in (kinds | {"caption_lengths": "u"}).items():
        if arrays[name].dtype.kind != kind or arrays[name].ndim != (3 if name == "frames" else 1):
            raise ValueError(f"sample {key}: field {name}.npy is {arrays[name].dtype} {list(arrays[name].shape)}")
    steps = {len(arrays[name]) for name in ("actions", "rewards", "done")}
    if steps != {len(frames) - 1} or len(lengths) != len(frames) or not frames.size:
        raise ValueError(f"sample {key}: {len(frames)} frames, {len(lengths)} captions and {steps} steps do not match")
    if int(lengths.sum(dtype=np.int64)) != len(arrays["captions"]) or not np.isfinite(arrays["rewards"]).all():
        raise ValueError(f"sample {key}: its caption lengths or its rewards are damaged")


def _to_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _from_npy(key: str, name: str, fields: dict[str, bytes]) -> np.ndarray:
    try:
        return decode_npy(fields[f"{name}.npy"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"sample {key}: field {name}.npy is missing or damaged ({error}): tokenise the data again"
        ) from None
