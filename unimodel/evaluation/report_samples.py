"""The report's pictures: held-out frames beside what the run makes of them. Nothing is picked by how it looks."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data_pipelines.sources.episode import UNKNOWN_ACTION
from data_pipelines.stream.randomness import keyed_generator
from unimodel.evaluation.branches import Branching, branching_state
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.image_metrics import psnr
from unimodel.evaluation.rollouts import CONTEXT_FRAMES, actions_from_start, start_of
from unimodel.sampling.fill import FillSettings, fill_span
from unimodel.sampling.text import describe_images
from unimodel.tokenizers.bundle import TokenizerBundle
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.rollout import roll_out

NUM_RECONSTRUCTIONS = 6
NUM_ROLLOUTS = 5
FILM_STEPS = 8
"""Of the model's own frames, where `evaluation.horizons` go so far."""
NUM_CAPTIONED = 6
BRANCH_EPISODES = 10
"""The counterfactual panel shows the state with most distinct outcomes among the first ones of this many episodes."""
DRAWING_STEPS = 8
CAPTION_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame for the page: `source` is a data URI."""

    source: str
    alt: str
    note: str = ""
    good: bool | None = None
    """Colours the note; None leaves it plain."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A real frame and its counterpart, with the texts that belong to them."""

    real: Picture
    made: Picture | None
    texts: tuple[tuple[str, str], ...] = ()
    """(who says it, what)."""


@dataclass(frozen=True, slots=True)
class Film:
    """Columns of a real and a generated row; the first `given` columns are the context both start from."""

    title: str
    columns: tuple[str, ...]
    real: tuple[Picture, ...]
    made: tuple[Picture, ...]
    given: int = 0


def picture(frame: np.ndarray, alt: str, note: str = "", good: bool | None = None) -> Picture:
    """uint8 [height, width, 3] as a PNG data URI at its own size; the page enlarges it without blur."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG", optimize=True)
    return Picture("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(), alt, note, good)


def reconstructions(bundle: TokenizerBundle, held_out: HeldOut) -> list[Pair]:
    """The middle frame of the first held-out episodes, and the same frame through the image tokenizer and back."""
    episodes = held_out.episodes[:NUM_RECONSTRUCTIONS]
    frames = np.stack([episode.frames[len(episode.frames) // 2] for episode in episodes])
    decoded = bundle.image.decode(bundle.image.encode(frames))
    pairs = []
    for episode, real, made in zip(episodes, frames, decoded, strict=True):
        quality = psnr(made[None], real[None])
        note = "decoded, exact" if math.isinf(quality) else f"decoded, PSNR {quality:.1f} dB"
        original = picture(real, f"Held-out frame of {episode.key}", "real")
        pairs.append(Pair(original, picture(made, f"The same frame of {episode.key} decoded from its codes", note)))
    return pairs


def rollouts(loaded: LoadedRun, held_out: HeldOut, action_names: Sequence[str]) -> list[Film]:
    """Real episodes next to the model's own frames, from the same first frames and the same actions."""
    steps = min(FILM_STEPS, max(loaded.config.evaluation.horizons))
    chosen = [i for i, e in enumerate(held_out.tokens) if e.num_frames >= CONTEXT_FRAMES + steps][:NUM_ROLLOUTS]
    if not chosen:
        raise ValueError(f"no held-out episode has {CONTEXT_FRAMES + steps} frames")
    tokens = [held_out.tokens[i] for i in chosen]
    actions = np.stack([actions_from_start(episode, steps) for episode in tokens])
    rolled = roll_out(loaded, [start_of(episode) for episode in tokens], actions)
    films = []
    for number, world in zip(chosen, rolled, strict=True):
        episode, codes = held_out.episodes[number], held_out.tokens[number].frames
        decoded = loaded.bundle.image.decode(world.frames)
        names = [action_label(action, action_names) for action in world.actions]
        columns = tuple("start" if i == 0 else names[i - 1] for i in range(len(decoded)))
        real = tuple(picture(episode.frames[i], f"Real frame {i} after {columns[i]}") for i in range(len(decoded)))
        made = tuple(
            _rollout_picture(frame, i, columns[i], int((world.frames[i] == codes[i]).sum()), codes[i].size)
            for i, frame in enumerate(decoded)
        )
        films.append(Film(f"{episode.key}: {episode.mission}", columns, real, made, CONTEXT_FRAMES))
    return films


def action_label(action: np.ndarray, names: Sequence[str]) -> str:
    """The name of an action, or those of several agents' actions."""
    each = [int(one) for one in np.atleast_1d(action)]
    return " + ".join("absent" if one == UNKNOWN_ACTION else names[one] for one in each)


def _rollout_picture(frame: np.ndarray, number: int, action: str, same: int, size: int) -> Picture:
    if number < CONTEXT_FRAMES:
        return picture(frame, f"Given frame {number}", "given")
    return picture(frame, f"Generated frame {number} after {action}", f"{same}/{size}", same == size)


def counterfactual(loaded: LoadedRun, held_out: HeldOut, action_names: Sequence[str]) -> tuple[Picture, Film]:
    """One real state, and the next frame of every action: the world's and the model's."""
    number, state = _branching_state(loaded, held_out)
    episode, real, classes = held_out.episodes[number], state.frames, state.classes
    names = tuple(action_label(token, action_names) for token in state.told)
    stepped = roll_out(loaded, [state.world] * len(real), state.told[:, None])
    decoded = loaded.bundle.image.decode(np.stack([world.frames[-1] for world in stepped]))
    made = []
    for action, frame in enumerate(decoded):
        nearest = int(np.argmin(np.mean((real.astype(np.float64) - frame) ** 2, axis=(1, 2, 3))))
        right = bool(classes[nearest] == classes[action])
        note = "obeys" if right else f"looks like {names[nearest]}"
        made.append(picture(frame, f"Generated frame after {names[action]}", note, right))
    truth = tuple(picture(frame, f"Real frame after {name}") for frame, name in zip(real, names, strict=True))
    title = f"{episode.key}, step {state.step}: {episode.mission}"
    before = picture(
        episode.frames[state.step], f"The state before the action: {episode.key}, step {state.step}", "the state"
    )
    return before, Film(title, names, truth, tuple(made))


def _branching_state(loaded: LoadedRun, held_out: HeldOut) -> tuple[int, Branching]:
    """(episode, its state): the one with most outcomes, the first of these."""
    size = loaded.config.data.recording.image_size
    some = zip(held_out.episodes[:BRANCH_EPISODES], held_out.tokens[:BRANCH_EPISODES], strict=True)
    states = [branching_state(episode, tokens, size, loaded.bundle.only_latent_actions) for episode, tokens in some]
    if not states:
        raise ValueError("there is no held-out episode")
    return max(enumerate(states), key=lambda one: len(one[1].tried))


def drawings(loaded: LoadedRun, held_out: HeldOut) -> list[Pair]:
    """Captions of held-out frames, the frames, and what the model draws from the caption alone."""
    chosen = _captioned(held_out)
    bundle = loaded.bundle
    blank = np.zeros_like(held_out.tokens[0].frames[0])
    sequences = [
        bundle.builder.text_to_image(held_out.tokens[i].captions[at], blank, f"report {i}") for i, at in chosen
    ]
    spans = [next(span for span in sequence.spans if span.grid is not None) for sequence in sequences]
    settings = FillSettings(steps=DRAWING_STEPS)
    rng = keyed_generator("report drawings")
    codes = fill_span(loaded.backbone, sequences, spans, bundle.vocabulary, bundle.pad_id, settings, rng)
    drawn = bundle.image.decode(np.stack([code.reshape(blank.shape) for code in codes]))
    pairs = []
    for (number, at), code, frame in zip(chosen, codes, drawn, strict=True):
        caption = held_out.episodes[number].captions[at]
        same = int((code == held_out.tokens[number].frames[at].ravel()).sum())
        real = picture(held_out.episodes[number].frames[at], f"Real frame: {caption}", "real")
        made = picture(
            frame, f"Generated from the caption: {caption}", f"generated, {same}/{code.size}", same == code.size
        )
        pairs.append(Pair(real, made, (("caption", caption),)))
    return pairs


def descriptions(loaded: LoadedRun, held_out: HeldOut) -> list[Pair]:
    """Held-out frames with their own caption and the model's."""
    chosen = _captioned(held_out)
    bundle = loaded.bundle
    codes = [held_out.tokens[i].frames[at] for i, at in chosen]
    described = describe_images(loaded.backbone, bundle.builder, codes, bundle.pad_id, CAPTION_TOKENS)
    pairs = []
    for (number, at), ids in zip(chosen, described, strict=True):
        episode = held_out.episodes[number]
        caption, said = episode.captions[at], str(bundle.text.decode(ids.tolist()))
        frame = picture(
            episode.frames[at],
            f"Held-out frame {at} of {episode.key}",
            "same" if said == caption else "differs",
            said == caption,
        )
        pairs.append(Pair(frame, None, (("true caption", caption), ("generated", said or "(nothing)"))))
    return pairs


def _captioned(held_out: HeldOut) -> list[tuple[int, int]]:
    """(episode, frame): a frame of each of the first episodes, drawn by key."""
    return [
        (i, int(keyed_generator("report caption", episode.key).integers(episode.num_frames)))
        for i, episode in enumerate(held_out.tokens[:NUM_CAPTIONED])
    ]
