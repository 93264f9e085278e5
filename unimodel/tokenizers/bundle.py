"""The tokenizers of one run together, as they lie in a run folder or an export."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from unimodel.tokenizers.action import REWARD_BINS
from unimodel.tokenizers.image import ImageTokenizer
from unimodel.tokenizers.text import BOS, EOS, PAD, load_text_tokenizer, token_id
from unimodel.tokenizers.unified import SequenceBuilder
from unimodel.vocabulary import Vocabulary

VOCABULARY_FILE = "vocabulary.json"


@dataclass(frozen=True, slots=True)
class TokenizerBundle:
    """Text and image tokenizers and the vocabulary that joins them."""

    text: PreTrainedTokenizerFast
    image: ImageTokenizer
    vocabulary: Vocabulary

    @property
    def builder(self) -> SequenceBuilder:
        return SequenceBuilder(self.vocabulary, token_id(self.text, BOS), token_id(self.text, EOS))

    @property
    def pad_id(self) -> int:
        return token_id(self.text, PAD)


def join_vocabulary(text: PreTrainedTokenizerFast, image: ImageTokenizer, num_actions: int) -> Vocabulary:
    """The vocabulary of a run with these tokenizers and `num_actions` discrete actions."""
    return Vocabulary(
        text_size=len(text), image_size=image.num_codes, action_size=num_actions, reward_size=REWARD_BINS, done_size=2
    )


def load_bundle(text: Path, image: Path, vocabulary: Path) -> TokenizerBundle:
    """Loads the three parts. Raises FileNotFoundError naming the command that makes the missing one."""
    if not vocabulary.exists():
        raise FileNotFoundError(f"no {vocabulary.name} in {vocabulary.parent}: run `unimodel tokenizer train CONFIG`")
    values = json.loads(vocabulary.read_text(encoding="utf-8"))
    return TokenizerBundle(load_text_tokenizer(text), ImageTokenizer.load(image), Vocabulary(**values))
