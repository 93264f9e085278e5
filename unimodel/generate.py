"""`unimodel generate`: pictures from text, text from a picture, next frames from a list of actions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from data_pipelines.shards.index import read_manifest
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.storage import join
from data_pipelines.sources.episode import UNKNOWN_ACTION
from data_pipelines.stream.randomness import keyed_generator
from unimodel.config import EPISODES
from unimodel.sampling.fill import FillSettings, fill_span
from unimodel.sampling.text import describe_images
from unimodel.tokenizers.text import encode_text
from unimodel.tokenizers.tokenised_shards import decode_tokenised
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.rollout import require_actions, roll_out
from unimodel.world.state import WorldState

ENLARGEMENT = 4
"""Pictures are saved this many times larger, so that 64 pixels are visible."""
FRAME_MILLISECONDS = 400
ABSENT = "absent"
"""The action of an agent that is not there."""


def image_from_text(loaded: LoadedRun, text: str, settings: FillSettings, seed: int) -> np.ndarray:
    """uint8 [height, width, 3]. Raises ValueError for a prompt longer than the run's rows or an empty one."""
    caption = encode_text(loaded.bundle.text, text)
    side = loaded.config.data.recording.image_size // loaded.bundle.image.config.patch_pixels
    limit = max(stage.batch.row_tokens for stage in loaded.config.stages.values()) - side * side - 3
    if not 0 < len(caption) <= limit:
        raise ValueError(f"the text has {len(caption)} tokens; this run was trained on 1 to {limit} beside a picture")
    sequence = loaded.bundle.builder.text_to_image(caption, np.zeros((side, side), dtype=np.int64), "generate")
    span = next(span for span in sequence.spans if span.grid is not None)
    rng = keyed_generator("generate", seed)
    vocabulary, pad_id = loaded.bundle.vocabulary, loaded.bundle.pad_id
    with torch.no_grad():
        codes = fill_span(loaded.backbone, [sequence], [span], vocabulary, pad_id, settings, rng)[0]
        return loaded.bundle.image.decode(codes.reshape(1, side, side))[0]


def text_from_image(loaded: LoadedRun, path: Path) -> str:
    """A caption of a picture file. Raises ValueError for a file that is no picture or has another size."""
    size = loaded.config.data.recording.image_size
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} does not open as a picture ({error})") from None
    if pixels.shape[0] != pixels.shape[1] or pixels.shape[0] % size:
        raise ValueError(
            f"{path} is {pixels.shape[1]}x{pixels.shape[0]} pixels; this run reads {size}x{size} or multiples of it"
        )
    scale = pixels.shape[0] // size
    codes = loaded.bundle.image.encode(pixels[None, ::scale, ::scale])
    ids = describe_images(loaded.backbone, loaded.bundle.builder, list(codes), loaded.bundle.pad_id)[0]
    return str(loaded.bundle.text.decode(ids.tolist()))


def frames_from_actions(loaded: LoadedRun, actions: list[str], episode: int, seed: int) -> np.ndarray:
    """uint8 [1 + actions, height, width, 3]: the first frame of a held-out episode and what the model makes of it.

    Actions are names or numbers; those of several agents are joined by `+`, `absent` for one that is not there. Raises
    ValueError for an unknown action or episode.
    """
    reader = ShardReader(loaded.run.tokens_of(EPISODES, "validation"))
    if not 0 <= episode < len(reader):
        raise ValueError(f"episode {episode} does not exist: the run has held-out episodes 0 to {len(reader) - 1}")
    require_actions(loaded)
    known = read_manifest(join(loaded.config.data.folder, "validation")).metadata.get("action_names", [])
    names = loaded.bundle.action_names(known)
    start = decode_tokenised(*reader.read(episode))
    if start.actions.ndim == 1:
        numbers = [_action_number(action, names) for action in actions]
    else:
        numbers = [_joint_action(action, names, start.actions.shape[1]) for action in actions]
    world = WorldState(start.mission, start.frames[:1], start.actions[:0])
    rolled = roll_out(loaded, [world], np.asarray([numbers]), seed)
    return loaded.bundle.image.decode(rolled[0].frames)


def _joint_action(text: str, names: Sequence[str], agents: int) -> list[int]:
    each = text.split("+")
    if len(each) != agents:
        raise ValueError(
            f"'{text}' is not an action of each of {agents} agents: join them by +, as {names[0]}+{names[-1]}"
        )
    return [UNKNOWN_ACTION if one == ABSENT else _action_number(one, names) for one in each]


def _action_number(action: str, names: Sequence[str]) -> int:
    if action in names:
        return names.index(action)
    if action.isdigit() and int(action) < len(names):
        return int(action)
    raise ValueError(f"unknown action '{action}'; this world has {', '.join(names)} (or 0 to {len(names) - 1})")


def save_picture(pixels: np.ndarray, path: Path) -> None:
    """One frame [height, width, 3] as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _enlarged(pixels).save(path)


def save_film(frames: np.ndarray, path: Path) -> None:
    """Frames [n, height, width, 3] as a looping GIF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = [_enlarged(frame) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=FRAME_MILLISECONDS, loop=0)


def _enlarged(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.repeat(ENLARGEMENT, axis=0).repeat(ENLARGEMENT, axis=1))
