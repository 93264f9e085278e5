"""Tokenised episodes as WebDataset samples: what training reads instead of pictures and strings."""

from __future__ import annotations

import io

import numpy as np

from data_pipelines.shards.npy import decode_npy
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.table import Lengths
from unimodel.tokenizers.unified import EpisodeShape, TokenisedEpisode

FIELDS = ("frames", "audio", "actions", "rewards", "done", "mission", "captions", "caption_lengths")


def encode_tokenised(episode: TokenisedEpisode) -> dict[str, bytes]:
    """One `.npy` member per field; captions are concatenated, with their lengths beside them."""
    arrays = {
        "frames": episode.frames.astype(np.uint16),
        "audio": episode.audio.astype(np.uint16),
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
        "audio": episode.audio.shape[1],
        "outcome": 2 * int(not np.isnan(episode.rewards).any()),
        "mission": len(episode.mission),
        "captions": [len(caption) for caption in episode.captions],
    }


def read_shape(reader: ShardReader, number: int) -> EpisodeShape:
    """The shape of sample `number`, from the index. Raises ValueError when the shards are not tokenised ones."""
    names = ("frames", "grid", "audio", "outcome", "mission", "captions")
    (frames,), (rows, columns), (audio,), (outcome,), (mission,), captions = (
        reader.length(number, name).tolist() for name in names
    )
    return EpisodeShape(frames, rows, columns, audio, outcome, mission, captions)


def decode_tokenised(key: str, fields: dict[str, bytes]) -> TokenisedEpisode:
    """The reverse of `encode_tokenised`. Raises ValueError naming the sample and field that cannot be read."""
    arrays = {name: _from_npy(key, name, fields) for name in FIELDS}
    ends = np.cumsum(arrays["caption_lengths"], dtype=np.int64).tolist()
    captions = arrays["captions"].astype(np.int64)
    return TokenisedEpisode(
        key=key,
        frames=arrays["frames"].astype(np.int64),
        audio=arrays["audio"].astype(np.int64),
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        done=arrays["done"],
        mission=arrays["mission"].astype(np.int64),
        captions=tuple(captions[start:stop] for start, stop in zip([0, *ends], ends, strict=False)),
    )


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
