"""Tokenizer and stages 1 and 2: reconstruction, filling in, drawing from text, reading pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from data_pipelines.stream.randomness import keyed_generator
from unimodel.batch import CorruptedSequence, TokenSequence
from unimodel.config_objectives import NextTokenConfig
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.image_metrics import patch_means, psnr, squared_errors, ssim
from unimodel.evaluation.intervals import by_episode, over_episodes, pooled_psnr, ratio
from unimodel.evaluation.predictions import best_ids, image_nats, predict
from unimodel.evaluation.table import Row
from unimodel.layout import NO_TARGET, Role
from unimodel.objectives.next_token import next_token
from unimodel.sampling.fill import hide, read_only
from unimodel.tokenizers.image import ImageTokenizer
from unimodel.training.loaded_run import LoadedRun
from unimodel.vocabulary import Modality

REQUIRED_PSNR = 30.0
MASK_RATES = (0.15, 0.5, 0.85)


def evaluate_tokenizer(tokenizer: ImageTokenizer, held_out: HeldOut) -> tuple[list[Row], dict[str, float]]:
    """Rows, and the codebook's use: distinct codes and perplexity on held-out frames."""
    frames = np.concatenate([episode.frames for episode in held_out.episodes])
    owners = np.repeat(np.arange(len(held_out.episodes)), [len(episode.frames) for episode in held_out.episodes])
    codes = tokenizer.encode(frames)
    decoded = tokenizer.decode(codes)
    means = patch_means(frames, tokenizer.config.patch_pixels)
    share = np.bincount(codes.ravel(), minlength=tokenizer.num_codes) / codes.size
    perplexity = float(np.exp(-np.sum(share[share > 0] * np.log(share[share > 0]))))
    some = slice(0, 200)  # SSIM of a few hundred frames is exact enough and takes seconds
    values = np.full(len(frames), frames[0].size)
    quality = pooled_psnr(by_episode(owners, squared_errors(decoded, frames)), by_episode(owners, values))
    likeness = over_episodes(
        ratio,
        by_episode(owners[some], ssim(decoded[some], frames[some])),
        by_episode(owners[some], np.ones(len(frames[some]))),
    )
    rows = [
        Row(
            "image tokenizer PSNR",
            "tokenizer",
            quality.value,
            psnr(means, frames),
            "patch means",
            len(frames),
            "dB",
            required=REQUIRED_PSNR,
            interval=quality.interval,
        ),
        Row(
            "image tokenizer SSIM",
            "tokenizer",
            likeness.value,
            float(ssim(means[some], frames[some]).mean()),
            "patch means",
            len(frames[some]),
            interval=likeness.interval,
        ),
    ]
    return rows, {"codes": tokenizer.num_codes, "codes_used": int((share > 0).sum()), "perplexity": perplexity}


@dataclass(frozen=True, slots=True)
class _Question:
    """A sequence of episode number `episode`, and the ids and modalities behind its masks."""

    episode: int
    asked: CorruptedSequence
    ids: np.ndarray
    modality: np.ndarray


def evaluate_masked(loaded: LoadedRun, held_out: HeldOut) -> list[Row]:
    """Accuracy on hidden text and image tokens of held-out clips at mask rates .15, .5 and .85."""
    builder, vocabulary = loaded.bundle.builder, loaded.bundle.vocabulary
    questions = []
    for number, episode in enumerate(held_out.tokens):
        if episode.num_frames < 2:
            continue
        for rate in MASK_RATES:
            rng = keyed_generator("evaluate masked", episode.key, str(rate))
            sequence = builder.clip(episode, int(rng.integers(episode.num_frames - 1)))
            hidden = (sequence.role() == Role.TARGET) & (rng.random(len(sequence)) < rate)
            whole = np.zeros(len(sequence), dtype=np.int64)
            asked = replace(hide(read_only(sequence), hidden, vocabulary), block=whole)
            questions.append(_Question(number, asked, sequence.ids[hidden], sequence.modality()[hidden]))
    return _masked_rows(loaded, held_out, questions, (Modality.TEXT, Modality.IMAGE))


def evaluate_actions(loaded: LoadedRun, held_out: HeldOut) -> list[Row]:
    """Accuracy on hidden actions of held-out windows at the same mask rates; all frames are shown."""
    builder, vocabulary = loaded.bundle.builder, loaded.bundle.vocabulary
    frames = loaded.config.stages[loaded.stage].skills["actions"]
    questions = []
    for number, episode in enumerate(held_out.tokens):
        for rate in MASK_RATES:
            rng = keyed_generator("evaluate actions", episode.key, str(rate))
            start = int(rng.integers(max(1, episode.num_frames - frames + 1)))
            sequence = builder.interaction(episode, start, frames)
            hidden = (sequence.modality() == Modality.ACTION) & (rng.random(len(sequence)) < rate)
            if hidden.any():
                asked = hide(read_only(sequence), hidden, vocabulary)
                questions.append(_Question(number, asked, sequence.ids[hidden], sequence.modality()[hidden]))
    return _masked_rows(loaded, held_out, questions, (Modality.ACTION,)) if questions else []


def _masked_rows(
    loaded: LoadedRun, held_out: HeldOut, questions: list[_Question], kinds: tuple[Modality, ...]
) -> list[Row]:
    """One row per modality of `kinds`."""
    answers = zip(predict(loaded, [question.asked for question in questions]), questions, strict=True)
    guess = np.concatenate([best_ids(logits, q.modality, loaded.bundle.vocabulary) for logits, q in answers])
    answer = np.concatenate([question.ids for question in questions])
    modality = np.concatenate([question.modality for question in questions])
    owners = np.repeat([question.episode for question in questions], [len(question.ids) for question in questions])
    rows = []
    for kind in kinds:
        here = modality == kind
        unigram = float(np.mean(answer[here] == held_out.most_frequent[kind]))
        right = guess[here] == answer[here]
        accuracy = over_episodes(ratio, by_episode(owners[here], right), by_episode(owners[here], np.ones(len(right))))
        name = f"masked {kind.label} token accuracy"
        rows.append(
            Row(
                name,
                loaded.stage,
                accuracy.value,
                unigram,
                "most frequent token",
                len(right),
                interval=accuracy.interval,
            )
        )
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
    tokens = np.array([episode.frames[frame].size for episode, frame in chosen])
    bits = [
        over_episodes(ratio, np.array(scales) * image_nats(loaded, asked, answers) / np.log(2), tokens)
        for asked in (paired, shuffled)
    ]
    return Row(
        "image bits per token given its caption",
        loaded.stage,
        bits[0].value,
        bits[1].value,
        "shuffled captions",
        count,
        "bits",
        higher_is_better=False,
        interval=bits[0].interval,
    )


def evaluate_image_to_text(loaded: LoadedRun, held_out: HeldOut) -> Row:
    """Accuracy of every next caption token given the picture and the tokens before."""
    builder = loaded.bundle.builder
    asked: list[CorruptedSequence] = []
    for episode in held_out.tokens:
        episode, frame = _random_frame(episode, "evaluate image to text")
        sequence = builder.image_to_text(episode.frames[frame], episode.captions[frame], episode.key)
        asked.append(next_token(sequence, NextTokenConfig(kind="next_token"), 0))
    answers = [a.target[a.target != NO_TARGET] for a in asked]
    text_size = loaded.bundle.vocabulary.text_size
    guesses = [logits[:, :text_size].argmax(dim=-1).numpy() for logits in predict(loaded, asked)]
    right = np.array([np.sum(guess == answer) for guess, answer in zip(guesses, answers, strict=True)])
    accuracy = over_episodes(ratio, right, np.array([len(answer) for answer in answers]))
    unigram = float(np.mean(np.concatenate(answers) == held_out.most_frequent[Modality.TEXT]))
    return Row(
        "caption token accuracy given the image",
        loaded.stage,
        accuracy.value,
        unigram,
        "most frequent token",
        sum(map(len, answers)),
        interval=accuracy.interval,
    )


def _random_frame(episode, purpose: str):
    return episode, int(keyed_generator(purpose, episode.key).integers(episode.num_frames))


def _image_places(sequence: TokenSequence, places: np.ndarray) -> np.ndarray:
    start = next(span.start for span in sequence.spans if span.grid is not None)
    hidden = np.zeros(len(sequence), dtype=bool)
    hidden[start + places] = True
    return hidden
