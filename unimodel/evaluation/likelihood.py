"""How likely the next real frame is to the model: in bits, and by how many nats the action makes it likelier."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from data_pipelines.sources.episode import Episode
from data_pipelines.stream.randomness import keyed_generator
from unimodel.batch import CorruptedSequence, TokenSequence
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.intervals import over_episodes
from unimodel.evaluation.predictions import ask, image_nats, window, world_entry
from unimodel.evaluation.table import Row
from unimodel.tokenizers.action import by_agent
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.training.loaded_run import LoadedRun
from unimodel.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Of one frame in each of n episodes, given the real frames before it.

    true, shuffled   float [n]: nats, with the real action and with that of another episode
    changed          bool [n, rows, columns]: its tokens that differ from the frame before
    codes            int [n, rows, columns]
    pictures         uint8 [n, height, width, 3]
    """

    true: np.ndarray
    shuffled: np.ndarray
    changed: np.ndarray
    codes: np.ndarray
    pictures: np.ndarray


def measure_likelihoods(loaded: LoadedRun, held_out: HeldOut) -> Likelihoods:
    """-log p(frame | past, action) <= n / k * (cross entropy of k hidden tokens of n), for k uniform on 1..n (LLaDA,
    arXiv 2502.09992, eq. 14). Two masks per frame, which hide k and n + 1 - k tokens, k on a stratified grid; the same
    two for both actions.

    The frame is the last of a window as the model was trained on, drawn by the episode's key. Only the action that led
    to it, of all agents, is exchanged, with the next episode's, so that the past stays one that could have been.
    """
    asked = draw_frames(loaded, held_out)
    everyone = range(max(by_agent(one.episode.actions).shape[1] for one in asked))
    true, shuffled = frame_nats(loaded, asked, [(), everyone])
    codes = np.stack([one.episode.frames[one.at] for one in asked])
    before = np.stack([one.episode.frames[one.at - 1] for one in asked])
    pictures = np.stack([one.real.frames[one.at] for one in asked])
    return Likelihoods(true, shuffled, codes != before, codes, pictures)


@dataclass(frozen=True, slots=True)
class Asked:
    """Frame `at` of an episode, the last of a window that begins at `first`; `masks` are the places hidden in each look
    at it, and `other` is an action that led to a frame of another episode."""

    real: Episode
    episode: TokenisedEpisode
    at: int
    first: int
    masks: list[np.ndarray]
    other: np.ndarray


def draw_frames(loaded: LoadedRun, held_out: HeldOut) -> list[Asked]:
    """The same frames and masks for every question: the noise is paired."""
    frames = world_entry(loaded).frames
    chosen = [(real, e) for real, e in zip(held_out.episodes, held_out.tokens, strict=True) if e.num_frames > 1]
    rngs = [keyed_generator("evaluate likelihood", episode.key) for _, episode in chosen]
    last = [_last_frame(e.num_frames, frames, rng) for (_, e), rng in zip(chosen, rngs, strict=True)]
    asked = []
    for number, ((real, episode), at, rng) in enumerate(zip(chosen, last, rngs, strict=True)):
        following, size = (number + 1) % len(chosen), episode.frames[at].size
        count = max(1, round((number + 0.5) / len(chosen) * size))
        masks = [np.sort(rng.permutation(size)[:hidden]) for hidden in (count, size + 1 - count)]
        other = chosen[following][1].actions[last[following] - 1]
        asked.append(Asked(real, episode, at, max(0, at - frames + 1), masks, other))
    return asked


def frame_nats(loaded: LoadedRun, asked: Sequence[Asked], exchanged: Sequence[Collection[int]]) -> np.ndarray:
    """float64 [exchanged, n]: bounds of -log p of each frame where the actions that led to it of these agents are those
    of another episode, and all else is real."""
    entry, bundle = world_entry(loaded), loaded.bundle
    bounds: list[Bound] = []
    for one in asked:
        for agents in exchanged:
            actions = one.episode.actions.copy()
            for agent in agents:
                by_agent(actions)[one.at - 1, agent] = np.atleast_1d(one.other)[agent]
            episode, frames = replace(one.episode, actions=actions), one.at - one.first + 1
            whole = window(bundle.builder, episode, one.first, frames, has_sink=entry.sink)
            bounds += [hide_last(whole, places, bundle.vocabulary) for places in one.masks]
    nats = image_nats(loaded, [bound.asked for bound in bounds], [bound.answer for bound in bounds])
    return (nats * [bound.scale for bound in bounds]).reshape(len(asked), len(exchanged), -1).mean(axis=2).T


@dataclass(frozen=True, slots=True)
class Bound:
    """One look at a frame: the ids `answer` [k] behind its masks; their cross entropy counts `scale` = n / k times."""

    asked: CorruptedSequence
    answer: np.ndarray
    scale: float


def hide_last(sequence: TokenSequence, places: np.ndarray, vocabulary: Vocabulary) -> Bound:
    """Hides the tokens `places` [k], rising, of the last frame."""
    picture = sequence.layout.pictures[-1]
    hidden = np.zeros(len(sequence), dtype=bool)
    hidden[picture.start + places] = True
    return Bound(ask(sequence, hidden, vocabulary), sequence.ids[hidden], len(picture) / len(places))


def evaluate_likelihoods(found: Likelihoods, stage: str) -> tuple[list[Row], list[Row]]:
    """For the table the action information AI = NLL(frame | shuffled actions) - NLL(frame | actions), nats per frame: 0
    for a model that ignores actions.

    For the details the bits per frame, NLL(frame | actions) / ln 2, beside a code that copies the frame before, and PNG
    (which keeps every pixel where tokens do not).
    """
    information = over_episodes(np.mean, found.shuffled - found.true)
    bits = over_episodes(np.mean, found.true / math.log(2))
    count = len(found.true)
    row = Row(
        "action information per frame",
        stage,
        information.value,
        0.0,
        "actions ignored",
        count,
        "nats",
        interval=information.interval,
    )
    beside = f"copy and list the changes; PNG {png_bits(found.pictures):,.0f}"
    detail = Row(
        "bits per frame",
        stage,
        bits.value,
        copy_code_bits(found.changed, found.codes),
        beside,
        count,
        "bits",
        higher_is_better=False,
        interval=bits.interval,
    )
    return [row], [detail]


def copy_code_bits(changed: np.ndarray, codes: np.ndarray) -> float:
    """Bits per frame of the best code that says of every token whether it changed, and of a changed one what it is.

    Both by their frequency in these very frames: tokens * h(share changed) + changes * H(their codes). Arrays [n, rows,
    columns].
    """
    flags = np.bincount(changed.ravel().astype(np.int64), minlength=2)
    kinds = np.bincount(codes[changed]) if changed.any() else np.zeros(1)
    return (_entropy_bits(flags) * changed.size + _entropy_bits(kinds) * changed.sum()) / len(changed)


def png_bits(pictures: np.ndarray) -> float:
    """Mean bits of uint8 [n, height, width, 3] as PNGs, one per picture."""
    sizes = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
        sizes.append(8 * len(buffer.getvalue()))
    return float(np.mean(sizes))


def _last_frame(num_frames: int, frames: int, rng: np.random.Generator) -> int:
    """The last frame of a window of up to `frames` frames."""
    return int(rng.integers(min(frames, num_frames) - 1, num_frames))


def _entropy_bits(counts: Sequence[int] | np.ndarray) -> float:
    shares = np.asarray(counts, dtype=np.float64)
    shares = shares[shares > 0] / max(1.0, shares.sum())
    return float(-(shares * np.log2(shares)).sum())
