"""Tokenizer and stages 1 and 2: reconstruction, filling in, drawing from text, reading pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from data_pipelines.stream.randomness import keyed_generator
from unimodel.batch import CorruptedSequence, TokenSequence
from unimodel.config_objectives import NextTokenConfig
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.image_metrics import patch_means, psnr, ssim
from unimodel.evaluation.table import Row
from unimodel.layout import NO_TARGET, Role
from unimodel.objectives.next_token import next_token
from unimodel.sampling.fill import hide, predict_hidden, read_only
from unimodel.tokenizers.image import ImageTokenizer
from unimodel.training.loaded_run import LoadedRun
from unimodel.vocabulary import Modality, Vocabulary

REQUIRED_PSNR = 30.0
MASK_RATES = (0.15, 0.5, 0.85)
ROWS_AT_ONCE = 32


def evaluate_tokenizer(tokenizer: ImageTokenizer, held_out: HeldOut) -> tuple[list[Row], dict[str, float]]:
    """Rows, and the codebook's use: distinct codes and perplexity on held-out frames."""
    frames = np.concatenate([episode.frames for episode in held_out.episodes])
    codes = tokenizer.encode(frames)
    decoded = tokenizer.decode(codes)
    means = patch_means(frames, tokenizer.config.patch_pixels)
    share = np.bincount(codes.ravel(), minlength=tokenizer.num_codes) / codes.size
    perplexity = float(np.exp(-np.sum(share[share > 0] * np.log(share[share > 0]))))
    some = slice(0, 200)  # SSIM of a few hundred frames is exact enough and takes seconds
    rows = [
        Row(
            "image tokenizer PSNR",
            "tokenizer",
            psnr(decoded, frames),
            psnr(means, frames),
            "patch means",
            len(frames),
            "dB",
            required=REQUIRED_PSNR,
        ),
        Row(
            "image tokenizer SSIM",
            "tokenizer",
            ssim(decoded[some], frames[some]),
            ssim(means[some], frames[some]),
            "patch means",
            len(frames[some]),
        ),
    ]
    return rows, {"codes": tokenizer.num_codes, "codes_used": int((share > 0).sum()), "perplexity": perplexity}


def evaluate_masked(loaded: LoadedRun, held_out: HeldOut) -> list[Row]:
    """Accuracy on hidden text and image tokens of held-out clips at mask rates .15, .5 and .85."""
    builder, vocabulary = loaded.bundle.builder, loaded.bundle.vocabulary
    asked, answers = [], []
    for episode in held_out.tokens:
        for rate in MASK_RATES:
            rng = keyed_generator("evaluate masked", episode.key, str(rate))
            sequence = builder.clip(episode, int(rng.integers(episode.num_frames - 1)))
            hidden = (sequence.role() == Role.TARGET) & (rng.random(len(sequence)) < rate)
            whole = np.zeros(len(sequence), dtype=np.int64)
            asked.append(replace(hide(read_only(sequence), hidden, vocabulary), block=whole))
            answers.append((sequence.ids[hidden], sequence.modality()[hidden]))
    return _masked_rows(loaded, held_out, asked, answers, (Modality.TEXT, Modality.IMAGE))


def evaluate_actions(loaded: LoadedRun, held_out: HeldOut) -> list[Row]:
    """Accuracy on hidden actions of held-out windows at the same mask rates; all frames are shown."""
    builder, vocabulary = loaded.bundle.builder, loaded.bundle.vocabulary
    frames = loaded.config.stages[loaded.stage].skills["actions"]
    asked, answers = [], []
    for episode in held_out.tokens:
        for rate in MASK_RATES:
            rng = keyed_generator("evaluate actions", episode.key, str(rate))
            start = int(rng.integers(max(1, episode.num_frames - frames + 1)))
            sequence = builder.interaction(episode, start, frames)
            hidden = (sequence.modality() == Modality.ACTION) & (rng.random(len(sequence)) < rate)
            if hidden.any():
                asked.append(hide(read_only(sequence), hidden, vocabulary))
                answers.append((sequence.ids[hidden], sequence.modality()[hidden]))
    return _masked_rows(loaded, held_out, asked, answers, (Modality.ACTION,))


def _masked_rows(
    loaded: LoadedRun,
    held_out: HeldOut,
    asked: list[CorruptedSequence],
    answers: list[tuple[np.ndarray, np.ndarray]],
    kinds: tuple[Modality, ...],
) -> list[Row]:
    """One row per modality of `kinds`; `answers` are the ids and modalities behind the masks of every sequence."""
    guesses = [
        _best_ids(logits, modality, loaded.bundle.vocabulary)
        for logits, (_, modality) in zip(_predict(loaded, asked), answers, strict=True)
    ]
    guess, answer = np.concatenate(guesses), np.concatenate([ids for ids, _ in answers])
    modality = np.concatenate([modalities for _, modalities in answers])
    rows = []
    for kind in kinds:
        here = modality == kind
        unigram = float(np.mean(answer[here] == held_out.most_frequent[kind]))
        accuracy = float(np.mean(guess[here] == answer[here]))
        name = f"masked {kind.label} token accuracy"
        rows.append(Row(name, loaded.stage, accuracy, unigram, "most frequent token", int(here.sum())))
    return rows


def evaluate_text_to_image(loaded: LoadedRun, held_out: HeldOut) -> Row:
    """Bits per image token given the right caption, against a caption of another episode; the same masks for both.

    The bits are the exactly-k bound of -log2 p (k uniform, LLaDA eq. 14), one k per picture on a stratified grid.
    """
    builder, vocabulary = loaded.bundle.builder, loaded.bundle.vocabulary
    chosen = [_random_frame(episode, "evaluate text to image") for episode in held_out.tokens]
    count = len(chosen)
    paired, shuffled, scales, answers = [], [], [], []
    for number, (episode, frame) in enumerate(chosen):
        other, other_frame = chosen[(number + 1) % count]
        codes = episode.frames[frame]
        hidden_count = max(1, round((number + 0.5) / count * codes.size))
        places = keyed_generator("evaluate mask", episode.key).permutation(codes.size)[:hidden_count]
        scales.append(codes.size / hidden_count)
        answers.append(vocabulary.ids(Modality.IMAGE, codes.ravel()[np.sort(places)]))
        for captions, target in ((episode.captions[frame], paired), (other.captions[other_frame], shuffled)):
            sequence = builder.text_to_image(captions, codes, episode.key)
            target.append(hide(read_only(sequence), _image_places(sequence, places), vocabulary))
    bits = [
        sum(scale * nats for scale, nats in zip(scales, _nats(loaded, asked, answers), strict=True))
        / (np.log(2) * sum(episode.frames[frame].size for episode, frame in chosen))
        for asked in (paired, shuffled)
    ]
    return Row(
        "image bits per token given its caption",
        loaded.stage,
        float(bits[0]),
        float(bits[1]),
        "shuffled captions",
        count,
        "bits",
        higher_is_better=False,
    )


def evaluate_image_to_text(loaded: LoadedRun, held_out: HeldOut) -> Row:
    """Accuracy of every next caption token given the picture and the tokens before."""
    builder = loaded.bundle.builder
    asked: list[CorruptedSequence] = []
    for episode in held_out.tokens:
        episode, frame = _random_frame(episode, "evaluate image to text")
        sequence = builder.image_to_text(episode.frames[frame], episode.captions[frame], episode.key)
        asked.append(next_token(sequence, NextTokenConfig(kind="next_token"), 0))
    answer = np.concatenate([a.target[a.target != NO_TARGET] for a in asked])
    text_size = loaded.bundle.vocabulary.text_size
    guess = np.concatenate([logits[:, :text_size].argmax(dim=-1).numpy() for logits in _predict(loaded, asked)])
    unigram = float(np.mean(answer == held_out.most_frequent[Modality.TEXT]))
    return Row(
        "caption token accuracy given the image",
        loaded.stage,
        float(np.mean(guess == answer)),
        unigram,
        "most frequent token",
        len(answer),
    )


def _random_frame(episode, purpose: str):
    return episode, int(keyed_generator(purpose, episode.key).integers(episode.num_frames))


def _image_places(sequence: TokenSequence, places: np.ndarray) -> np.ndarray:
    start = next(span.start for span in sequence.spans if span.grid is not None)
    hidden = np.zeros(len(sequence), dtype=bool)
    hidden[start + places] = True
    return hidden


def _predict(loaded: LoadedRun, asked: Sequence[CorruptedSequence]) -> list[torch.Tensor]:
    predictions: list[torch.Tensor] = []
    for start in range(0, len(asked), ROWS_AT_ONCE):
        predictions.extend(predict_hidden(loaded.backbone, asked[start : start + ROWS_AT_ONCE], loaded.bundle.pad_id))
    return predictions


def _nats(loaded: LoadedRun, asked: Sequence[CorruptedSequence], answers: Sequence[np.ndarray]) -> list[float]:
    """Summed cross entropy of the image answers of every sequence."""
    image = loaded.bundle.vocabulary.range_of(Modality.IMAGE)
    nats = []
    for logits, ids in zip(_predict(loaded, asked), answers, strict=True):
        log_probabilities = logits[:, image.start : image.stop].log_softmax(dim=-1)
        nats.append(-float(log_probabilities[torch.arange(len(ids)), torch.from_numpy(ids - image.start)].sum()))
    return nats


def _best_ids(logits: torch.Tensor, modality: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """The most likely id of every row within its own modality's range."""
    best = np.zeros(len(modality), dtype=np.int64)
    for kind in np.unique(modality):
        ids = vocabulary.range_of(Modality(kind))
        here = modality == kind
        best[here] = logits[torch.from_numpy(here)][:, ids.start : ids.stop].argmax(dim=-1).numpy() + ids.start
    return best
