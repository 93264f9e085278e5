"""Tokenised episodes as WebDataset samples: what training reads instead of pictures and strings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from safetensors.numpy import save

from data_pipelines.shards.arrays import view_arrays
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.table import Lengths
from unimodel.tokenizers.unified import EpisodeShape, TokenisedEpisode

FIELD = "tokens.safetensors"
ARRAYS = {"frames", "actions", "rewards", "done", "mission", "captions", "caption_lengths"}


class Captions(Sequence[np.ndarray]):
    """Captions that lie one after another in `ids`, cut apart when asked for: a sequence looks at one of them."""

    def __init__(self, ids: np.ndarray, bounds: Sequence[int]) -> None:
        self._ids, self._bounds = ids, bounds

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, number: int) -> np.ndarray:
        number = range(len(self))[number]
        return self._ids[self._bounds[number] : self._bounds[number + 1]]


def encode_tokenised(episode: TokenisedEpisode) -> dict[str, bytes]:
    """One member with all arrays: seven of them would cost a reader more than everything else it does for a sample.
    Captions are concatenated, with their lengths beside them."""
    arrays = {
        "frames": episode.frames.astype(np.uint16),
        "actions": episode.actions.astype(np.int64),
        "rewards": episode.rewards.astype(np.float32),
        "done": episode.done.astype(bool),
        "mission": episode.mission.astype(np.uint32),
        "captions": np.concatenate(episode.captions).astype(np.uint32),
        "caption_lengths": np.asarray([len(caption) for caption in episode.captions], dtype=np.uint32),
    }
    return {FIELD: save(arrays)}


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
    arrays = _arrays(key, fields)
    return TokenisedEpisode(
        key=key,
        frames=arrays["frames"],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        done=arrays["done"],
        mission=arrays["mission"],
        captions=Captions(arrays["captions"], list(accumulate(arrays["caption_lengths"].tolist(), initial=0))),
    )


def _arrays(key: str, fields: dict[str, bytes]) -> dict[str, np.ndarray]:
    try:
        arrays, _ = view_arrays(fields[FIELD])
        if arrays.keys() < ARRAYS:
            raise ValueError(f"it has only {sorted(arrays)}")
        return arrays
    except (KeyError, ValueError) as error:
        raise ValueError(f"sample {key}: field {FIELD} is missing or damaged ({error}): tokenise the data again") from None
