"""One vocabulary for every modality: where the ids of text, images, actions, rewards ... begin and end.

Ids are laid out as `text | special | image | audio | action | reward | done | padding`. Text comes first so that a
Hugging Face tokenizer's ids are the model's ids; the total is padded to a multiple of 128, which keeps the embedding
and head matrix multiplications aligned. Nothing else in the project adds an offset to a code by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np

PADDED_MULTIPLE = 128
UNKNOWN = -1
"""No id of anything."""


class Modality(IntEnum):
    """What a token is a token of. The value is stored in batches and logs: append, never renumber."""

    TEXT = 0
    SPECIAL = 1
    IMAGE = 2
    AUDIO = 3
    ACTION = 4
    REWARD = 5
    DONE = 6

    @property
    def label(self) -> str:
        return self.name.lower()


CODE_MODALITIES = (Modality.IMAGE, Modality.AUDIO, Modality.ACTION, Modality.REWARD, Modality.DONE)
"""Modalities with a range of their own after the special tokens, in id order."""

LONGEST_RULER = 64
"""Largest height or width of an image, in tokens."""

SPECIAL_TOKENS = (
    "<|image|>",
    "<|audio|>",
    "<|no_action|>",
    "<|agent|>",
    "<|value|>",
    *(f"<|mask_{modality.label}|>" for modality in Modality if modality is not Modality.SPECIAL),
    *(f"<|coordinate_{number}|>" for number in range(LONGEST_RULER)),
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Sizes of every modality, from which all id ranges follow.

    `text_size` counts the text tokenizer's ids (its own pad, bos and eos included). A size of 0 means the modality
    is absent from this run.
    """

    text_size: int
    image_size: int = 0
    audio_size: int = 0
    action_size: int = 0
    reward_size: int = 0
    done_size: int = 2

    def __post_init__(self) -> None:
        for name in ("text_size", "image_size", "audio_size", "action_size", "reward_size", "done_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"vocabulary.{name} ({getattr(self, name)}) must not be negative")
        if self.text_size == 0:
            raise ValueError("vocabulary.text_size must be positive: every run has a text tokenizer")

    def size_of(self, modality: Modality) -> int:
        """Number of codes of `modality`."""
        return len(SPECIAL_TOKENS) if modality is Modality.SPECIAL else getattr(self, f"{modality.label}_size")

    def range_of(self, modality: Modality) -> range:
        """The ids of `modality`; empty when the run does not have it."""
        return _ranges(self)[modality]

    @property
    def used_size(self) -> int:
        """Ids that mean something; the rest up to `size` is padding."""
        return self.range_of(CODE_MODALITIES[-1]).stop

    @property
    def size(self) -> int:
        """Rows of the embedding matrix."""
        return -(-self.used_size // PADDED_MULTIPLE) * PADDED_MULTIPLE

    def special(self, token: str) -> int:
        """Id of a special token such as `<|image|>`."""
        return self.range_of(Modality.SPECIAL).start + SPECIAL_TOKENS.index(token)

    @property
    def image_start(self) -> int:
        return self.special("<|image|>")

    @property
    def audio_start(self) -> int:
        return self.special("<|audio|>")

    @property
    def no_action(self) -> int:
        return self.special("<|no_action|>")

    @property
    def agent(self) -> int:
        """The question what to do next."""
        return self.special("<|agent|>")

    @property
    def value(self) -> int:
        """The question what the agent will get."""
        return self.special("<|value|>")

    def ruler(self, length: int) -> np.ndarray:
        """Ids of `<|coordinate_0|>` ... for images of up to `length` rows and columns."""
        if length > LONGEST_RULER:
            raise ValueError(f"images of {length} tokens a side are too large: at most {LONGEST_RULER}")
        return _coordinates(self)[:length]

    def mask(self, modality: Modality) -> int:
        """The MASK id that stands for a hidden token of `modality`."""
        return self.special(_MASK_TOKENS[modality])

    def ids(self, modality: Modality, codes: np.ndarray) -> np.ndarray:
        """Codes (any shape, from 0) to ids. Raises ValueError for a code outside the modality's range."""
        codes = np.asarray(codes, dtype=np.int64)
        ids = self.range_of(modality)
        # Read without its sign, a negative code is a huge one: one look finds both kinds of wrong ones.
        if codes.size and np.maximum.reduce(codes.view(np.uint64), axis=None) >= len(ids):
            wrong = codes[(codes < 0) | (codes >= len(ids))].flat[0]
            raise ValueError(f"{modality.label} code {wrong} is outside 0..{len(ids) - 1} of this run's vocabulary")
        return codes + ids.start

    def codes(self, modality: Modality, ids: np.ndarray) -> np.ndarray:
        """Ids (any shape) back to codes of `modality`."""
        return np.asarray(ids, dtype=np.int64) - self.range_of(modality).start

    def to_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__} | {"special_size": len(SPECIAL_TOKENS)}

    @classmethod
    def from_dict(cls, values: Mapping[str, int]) -> Vocabulary:
        """The reverse of `to_dict`. Raises ValueError for one of other special tokens: all ids after them differ."""
        sizes = dict(values)
        if (special := sizes.pop("special_size", None)) != len(SPECIAL_TOKENS):
            raise ValueError(
                f"this vocabulary is of another version of unimodel, with {special or 'other'} special tokens instead "
                f"of {len(SPECIAL_TOKENS)}: use that version, or train a new run"
            )
        return cls(**sizes)


_MASK_TOKENS = {modality: f"<|mask_{modality.label}|>" for modality in Modality if modality is not Modality.SPECIAL}


@lru_cache(maxsize=16)
def _ranges(vocabulary: Vocabulary) -> dict[Modality, range]:
    """The ids of every modality, text first. Asked for with every span that is laid out."""
    ranges, start = {}, 0
    for modality in (Modality.TEXT, Modality.SPECIAL, *CODE_MODALITIES):
        ranges[modality] = range(start, start + vocabulary.size_of(modality))
        start = ranges[modality].stop
    return ranges


@lru_cache(maxsize=16)
def _coordinates(vocabulary: Vocabulary) -> np.ndarray:
    ids = np.arange(LONGEST_RULER) + vocabulary.special("<|coordinate_0|>")
    ids.flags.writeable = False
    return ids
