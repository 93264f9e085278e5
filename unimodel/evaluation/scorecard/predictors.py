"""Who is judged side by side: the model, the same one with its window alone, and the world that stays as it is.

What the model makes of held-out episodes is made once; what stays as it is, and what really happened, follow from that
without a model. Every figure is the same function of each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unimodel.backbone.model import Backbone
from unimodel.evaluation.branches import Branched, Branching
from unimodel.evaluation.rollouts import Frames, Outcomes, Rollout
from unimodel.memory.memory import Memory
from unimodel.tokenizers.image import ImageTokenizer
from unimodel.training.loaded_run import LoadedRun

SHORTEST_FRAMES = 2
"""The last frame and the next."""


def window_only(loaded: LoadedRun) -> tuple[LoadedRun, str]:
    """The same weights without a past beyond a window, and what was done to them: a memory is emptied in every segment;
    of a model without one, the window is cut to the last frame."""
    config, stage = loaded.config, loaded.config.stages[loaded.stage]
    if isinstance(loaded.backbone.memory, Memory):
        backbone = Backbone(loaded.backbone.decoder, loaded.backbone.memory.forgetful()).eval()
        return replace(loaded, backbone=backbone), "the model with an empty memory in every segment"
    assert stage.world is not None, f"stage {loaded.stage} was not trained on interaction"
    about = f"the model, which has no memory, reading the last frame instead of up to {stage.world.frames - 1}"
    short = stage.model_copy(update={"mixture": (stage.world.model_copy(update={"frames": SHORTEST_FRAMES}),)})
    stages = {**config.stages, loaded.stage: short}
    return replace(loaded, config=config.model_copy(update={"stages": stages})), about


def window_frames(loaded: LoadedRun) -> int:
    """How many frames back a model sees without a memory."""
    stage = loaded.config.stages[loaded.stage]
    if stage.memory is not None:
        return stage.memory.segment_frames
    assert stage.world is not None
    return stage.world.frames


def standing_still(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Nothing ever happens, nothing is gained and nothing ends."""
    return [
        replace(
            one,
            made=Frames(
                np.repeat(one.given.codes[None], one.steps, 0), np.repeat(one.given.pictures[None], one.steps, 0)
            ),
            expected=Outcomes(np.zeros(one.steps), np.zeros(one.steps)),
        )
        for one in rollouts
    ]


def as_it_was(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """What really happened, as far as the tokenizer shows it."""
    return [replace(one, made=Frames(one.real.codes, one.ceiling), expected=one.happened) for one in rollouts]


def branches_standing_still(states: Sequence[Branching], tokenizer: ImageTokenizer) -> list[Branched]:
    """Whatever the action, the frame before it."""
    still = [np.repeat(state.world.frames[-1:], len(state.tried), axis=0) for state in states]
    return _decoded(states, still, tokenizer)


def branches_as_they_were(states: Sequence[Branching], tokenizer: ImageTokenizer) -> list[Branched]:
    """What every action really does, as far as the tokenizer shows it."""
    return _decoded(states, [tokenizer.encode(state.frames[state.tried]) for state in states], tokenizer)


def _decoded(states: Sequence[Branching], codes: Sequence[np.ndarray], tokenizer: ImageTokenizer) -> list[Branched]:
    if not states:
        return []
    stops = np.cumsum([len(some) for some in codes])[:-1]
    pictures = np.split(tokenizer.decode(np.concatenate(codes)), stops)
    return [Branched(*parts) for parts in zip(states, codes, pictures, strict=True)]
