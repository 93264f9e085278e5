"""Tokenised episodes as WebDataset samples: what training reads instead of pictures and strings."""

from __future__ import annotations

import io
from itertools import accumulate, pairwise

import numpy as np

from data_pipelines.shards.npy import decode_npy
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.table import Lengths
from unimodel.tokenizers.unified import EpisodeShape, TokenisedEpisode

FIELD = "tokens.npy"
ARRAYS = ("grid", "frames", "actions", "rewards", "done", "mission", "caption_lengths", "captions")


def encode_tokenised(episode: TokenisedEpisode) -> dict[str, bytes]:
    """One flat array: how long each of ARRAYS is, then all of them, one after another; uint16 where that holds them.

    A member for each would cost a reader more than everything else that it does for a sample. Rewards are the bits of
    float32 values, captions are concatenated.
    """
    arrays = {
        "grid": np.array(episode.frames.shape[1:]),
        "frames": episode.frames.ravel(),
        "actions": episode.actions,
        "done": episode.done,
        "mission": episode.mission,
        "caption_lengths": np.array([len(caption) for caption in episode.captions]),
        "captions": np.concatenate(episode.captions),
    }
    largest = max(int(array.max(initial=len(array))) for array in arrays.values())
    dtype = np.uint16 if 2 * largest <= np.iinfo(np.uint16).max else np.uint32
    arrays["rewards"] = episode.rewards.astype(np.float32).view(dtype)
    lengths = np.array([len(arrays[name]) for name in ARRAYS])
    buffer = io.BytesIO()
    values = np.concatenate([lengths, *(arrays[name] for name in ARRAYS)]).astype(dtype)
    np.lib.format.write_array(buffer, values, allow_pickle=False)
    return {FIELD: buffer.getvalue()}


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
    (rows, columns), (mission,), captions = reader.lengths(number, "grid", "mission", "captions")
    return EpisodeShape(len(captions), rows, columns, mission, captions)


def decode_tokenised(key: str, fields: dict[str, bytes]) -> TokenisedEpisode:
    """The reverse of `encode_tokenised`. Raises ValueError naming the sample and what is wrong with it."""
    try:
        arrays = _arrays(decode_npy(fields[FIELD]))
        bounds = list(accumulate(arrays["caption_lengths"].tolist(), initial=0))
        return TokenisedEpisode(
            key=key,
            frames=arrays["frames"].reshape(-1, *arrays["grid"].tolist()),
            actions=arrays["actions"],
            rewards=arrays["rewards"].view(np.float32),
            done=arrays["done"],
            mission=arrays["mission"],
            captions=tuple(arrays["captions"][start:stop] for start, stop in pairwise(bounds)),
        )
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"sample {key}: field {FIELD} is missing or damaged ({error}): tokenise the data again"
        ) from None


def _arrays(values: np.ndarray) -> dict[str, np.ndarray]:
    bounds = list(accumulate(values[: len(ARRAYS)].tolist(), initial=len(ARRAYS)))
    if bounds[-1] != len(values):
        raise ValueError(f"{len(values)} values are there, {bounds[-1]} were promised")
    return {name: values[start:stop] for name, (start, stop) in zip(ARRAYS, pairwise(bounds), strict=True)}
