"""The report's pictures: held-out frames beside what the run makes of them. Nothing is picked by how it looks."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data_pipelines.sources.families import branch_frames
from data_pipelines.stream.randomness import keyed_generator
from unimodel.evaluation.dynamics import CONTEXT_FRAMES
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.image_metrics import psnr
from unimodel.sampling.fill import FillSettings, fill_span
from unimodel.sampling.text import describe_images
from unimodel.tokenizers.bundle import TokenizerBundle
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.rollout import roll_out
from unimodel.world.state import WorldState

NUM_RECONSTRUCTIONS = 6
NUM_ROLLOUTS = 5
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
    steps = loaded.config.evaluation.rollout_frames
    chosen = [i for i, e in enumerate(held_out.tokens) if e.num_frames >= CONTEXT_FRAMES + steps][:NUM_ROLLOUTS]
    if not chosen:
        raise ValueError(f"no held-out episode has {CONTEXT_FRAMES + steps} frames")
    tokens = [held_out.tokens[i] for i in chosen]
    worlds = [
        WorldState(e.mission, e.frames[:CONTEXT_FRAMES], e.actions[: CONTEXT_FRAMES - 1], e.events) for e in tokens
    ]
    actions = np.stack([e.actions[CONTEXT_FRAMES - 1 : CONTEXT_FRAMES - 1 + steps] for e in tokens])
    rolled = roll_out(loaded, worlds, actions)
    films = []
    for number, world in zip(chosen, rolled, strict=True):
        episode, codes = held_out.episodes[number], held_out.tokens[number].frames
        decoded = loaded.bundle.image.decode(world.frames)
        names = [action_names[int(action)] for action in world.actions]
        columns = tuple("start" if i == 0 else names[i - 1] for i in range(len(decoded)))
        real = tuple(picture(episode.frames[i], f"Real frame {i} after {columns[i]}") for i in range(len(decoded)))
        made = tuple(
            _rollout_picture(frame, i, columns[i], int((world.frames[i] == codes[i]).sum()), codes[i].size)
            for i, frame in enumerate(decoded)
        )
        films.append(Film(f"{episode.key}: {episode.mission}", columns, real, made, CONTEXT_FRAMES))
    return films


def _rollout_picture(frame: np.ndarray, number: int, action: str, same: int, size: int) -> Picture:
    if number < CONTEXT_FRAMES:
        return picture(frame, f"Given frame {number}", "given")
    return picture(frame, f"Generated frame {number} after {action}", f"{same}/{size}", same == size)


def counterfactual(loaded: LoadedRun, held_out: HeldOut, action_names: Sequence[str]) -> tuple[Picture, Film]:
    """One real state, and the next frame of every action: the world's and the model's."""
    number, at, real, classes = _branching_state(loaded, held_out)
    episode, tokens = held_out.episodes[number], held_out.tokens[number]
    world = WorldState(tokens.mission, tokens.frames[: at + 1], tokens.actions[:at], tokens.events)
    stepped = roll_out(loaded, [world] * len(real), np.arange(len(real))[:, None])
    decoded = loaded.bundle.image.decode(np.stack([world.frames[-1] for world in stepped]))
    made = []
    for action, frame in enumerate(decoded):
        nearest = int(np.argmin(np.mean((real.astype(np.float64) - frame) ** 2, axis=(1, 2, 3))))
        right = bool(classes[nearest] == classes[action])
        note = "obeys" if right else f"looks like {action_names[nearest]}"
        made.append(picture(frame, f"Generated frame after {action_names[action]}", note, right))
    truth = tuple(picture(frame, f"Real frame after {name}") for frame, name in zip(real, action_names, strict=True))
    title = f"{episode.key}, step {at}: {episode.mission}"
    state = picture(episode.frames[at], f"The state before the action: {episode.key}, step {at}", "the state")
    return state, Film(title, tuple(action_names), truth, tuple(made))


def _branching_state(loaded: LoadedRun, held_out: HeldOut) -> tuple[int, int, np.ndarray, np.ndarray]:
    """(episode, step, real next frames by action, outcome class by action)."""
    best: tuple[int, int, np.ndarray, np.ndarray] | None = None
    for number, episode in enumerate(held_out.episodes[:BRANCH_EPISODES]):
        at = (
            int(keyed_generator("evaluate branches", episode.key).integers(1, episode.num_steps))
            if episode.num_steps > 1
            else 0
        )
        before, size = episode.actions[:at].tolist(), loaded.config.data.recording.image_size
        real = branch_frames(episode.environment, episode.seed, before, size, episode.events)
        classes = np.unique(real.reshape(len(real), -1), axis=0, return_inverse=True)[1].ravel()
        if best is None or classes.max() > best[3].max():
            best = (number, at, real, classes)
    if best is None:
        raise ValueError("there is no held-out episode")
    return best


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
