"""The tokenizers of one run together, as they lie in a run folder or an export."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from unimodel.tokenizers.action import REWARD_BINS
from unimodel.tokenizers.audio import AudioTokenizer
from unimodel.tokenizers.image import ImageTokenizer
from unimodel.tokenizers.text import BOS, EOS, PAD, load_text_tokenizer, token_id
from unimodel.tokenizers.unified import SequenceBuilder
from unimodel.vocabulary import Vocabulary

VOCABULARY_FILE = "vocabulary.json"


@dataclass(frozen=True, slots=True)
class TokenizerBundle:
    """Text, image and audio tokenizers and the vocabulary that joins them."""

    text: PreTrainedTokenizerFast
    image: ImageTokenizer
    audio: AudioTokenizer | None
    """None in a run without sound."""
    vocabulary: Vocabulary

    @property
    def builder(self) -> SequenceBuilder:
        return SequenceBuilder(self.vocabulary, token_id(self.text, BOS), token_id(self.text, EOS))

    @property
    def pad_id(self) -> int:
        return token_id(self.text, PAD)


def join_vocabulary(
    text: PreTrainedTokenizerFast, image: ImageTokenizer, audio: AudioTokenizer | None, num_actions: int
) -> Vocabulary:
    """The vocabulary of a run with these tokenizers and `num_actions` discrete actions."""
    return Vocabulary(
        text_size=len(text),
        image_size=image.num_codes,
        audio_size=audio.num_codes if audio is not None else 0,
        action_size=num_actions,
        reward_size=REWARD_BINS,
        done_size=2,
    )


def load_bundle(text: Path, image: Path, audio: Path, vocabulary: Path) -> TokenizerBundle:
    """Loads the parts; `audio` may be absent.

    Raises FileNotFoundError naming the command that makes a missing one, ValueError for those of another version.
    """
    if not vocabulary.exists():
        raise FileNotFoundError(f"no {vocabulary.name} in {vocabulary.parent}: run `unimodel tokenizer train CONFIG`")
    values = json.loads(vocabulary.read_text(encoding="utf-8"))
    return TokenizerBundle(
        load_text_tokenizer(text),
        ImageTokenizer.load(image),
        AudioTokenizer.load(audio) if audio.is_dir() else None,
        Vocabulary.from_dict(values),
    )
