"""The tokenizers of one run together, as they lie in a run folder or an export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from data_pipelines.sources.sample import UNKNOWN_ACTION, Sample
from unimodel.tokenizers.action import REWARD_BINS
from unimodel.tokenizers.audio import AudioTokenizer
from unimodel.tokenizers.image import ImageTokenizer
from unimodel.tokenizers.latent_action import LatentActionModel
from unimodel.tokenizers.odometer import CONFIG_FILE as ODOMETER_FILE
from unimodel.tokenizers.odometer import Odometer
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
    latent_action: LatentActionModel | None = None
    """None in a run without; a model that plays only needs to know how many codes it has."""
    odometer: Odometer | None = None
    """None in a run without a memory that recalls by pose."""

    @property
    def first_latent_action(self) -> int:
        """Codes of inferred actions come after those of the known ones."""
        return self.vocabulary.action_size - (self.latent_action.num_codes if self.latent_action is not None else 0)

    @property
    def knows_real_actions(self) -> bool:
        """Whether action tokens 0, 1, ... are those of an environment, and not all of them inferred."""
        return self.only_latent_actions is None

    @property
    def only_latent_actions(self) -> LatentActionModel | None:
        """What infers the actions, where no token is a real one: its codes are the tokens."""
        return self.latent_action if self.first_latent_action == 0 else None

    def alternatives(self, num_actions: int) -> range:
        """The action tokens of an episode of an environment of so many actions: its own, or inferred ones where they
        replace them or it has none."""
        if num_actions and self.knows_real_actions:
            return range(num_actions)
        return range(self.first_latent_action, self.vocabulary.action_size)

    def action_names(self, known: Sequence[str]) -> tuple[str, ...]:
        """Of the action tokens 0, 1, ... of a world whose own actions have these names; inferred ones, which come last,
        are `latent_0`, `latent_1`, ..."""
        if self.latent_action is None:
            return tuple(known)
        real, size = self.first_latent_action, self.vocabulary.action_size
        names = [known[i] if i < len(known) else f"action_{i}" for i in range(real)]
        return (*names, *(f"latent_{i}" for i in range(size - real)))

    def action_codes(self, sample: Sample) -> np.ndarray:
        """int64 [frames - 1] (or [frames - 1, agents]) what was done, or what is inferred where the run has latent
        actions and nobody knows, or they replace those that are known: one action for all agents."""
        latent = self.latent_action
        is_known = sample.actions.ndim == 2 or not len(sample.actions) or int(sample.actions[0]) != UNKNOWN_ACTION
        if latent is None or not sample.frames.size or (is_known and not latent.config.replace_known):
            return sample.actions
        return self.first_latent_action + latent.codes(sample.frames)

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


def load_bundle(
    text: Path,
    image: Path,
    audio: Path,
    vocabulary: Path,
    latent_action: Path | None = None,
    odometer: Path | None = None,
) -> TokenizerBundle:
    """Loads the parts; `audio`, `latent_action` and `odometer` may be absent.

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
        LatentActionModel.load(latent_action) if latent_action is not None and latent_action.is_dir() else None,
        Odometer.load(odometer) if odometer is not None and (odometer / ODOMETER_FILE).exists() else None,
    )
