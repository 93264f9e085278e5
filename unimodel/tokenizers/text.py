"""Text: a byte-level BPE trained on the run's own captions and missions, saved as a Hugging Face tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

WORD = r" ?[\p{L}\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+"
"""What merges never cross. Letters and digits stay together, unlike in GPT-2: the cell `c5` is one word, one token."""

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"


def train_text_tokenizer(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A BPE over bytes (no unknown character exists) with at most `vocabulary_size` ids, specials first.

    Raises ValueError when the size cannot hold the 256 bytes and the special tokens.
    """
    specials = [PAD, BOS, EOS]
    smallest = 256 + len(specials)
    if vocabulary_size < smallest:
        raise ValueError(
            f"tokenizers.text.vocabulary_size ({vocabulary_size}) must be at least {smallest}: 256 bytes + specials"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(WORD), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def load_text_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Loads what `save_pretrained` wrote. Raises FileNotFoundError naming the command that trains one."""
    if not (folder / "tokenizer.json").exists():
        raise FileNotFoundError(f"no text tokenizer in {folder}: run `unimodel tokenizer train CONFIG`")
    return AutoTokenizer.from_pretrained(folder)


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Id of one special token."""
    number = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(number, int), token
    return number


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> np.ndarray:
    """int64 [n] ids, without bos and eos."""
    return np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
