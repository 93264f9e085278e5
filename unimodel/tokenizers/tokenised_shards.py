"""Tokenised episodes as WebDataset samples: what training reads instead of pictures and strings."""

from __future__ import annotations

import io

import numpy as np

from unimodel.tokenizers.unified import TokenisedEpisode

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


def decode_tokenised(key: str, fields: dict[str, bytes]) -> TokenisedEpisode:
    """The reverse of `encode_tokenised`. Raises ValueError naming the sample and field that cannot be read."""
    arrays = {name: _from_npy(key, name, fields) for name in FIELDS}
    ends = np.cumsum(arrays["caption_lengths"].astype(np.int64))[:-1]
    return TokenisedEpisode(
        key=key,
        frames=arrays["frames"].astype(np.int64),
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        done=arrays["done"],
        mission=arrays["mission"].astype(np.int64),
        captions=tuple(np.split(arrays["captions"].astype(np.int64), ends)),
    )


def _to_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _from_npy(key: str, name: str, fields: dict[str, bytes]) -> np.ndarray:
    try:
        return np.lib.format.read_array(io.BytesIO(fields[f"{name}.npy"]), allow_pickle=False)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"sample {key}: field {name}.npy is missing or damaged ({error}): tokenise the data again"
        ) from None
