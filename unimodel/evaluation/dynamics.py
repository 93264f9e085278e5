"""Stage 3: does the generated world follow the real one, and does it obey the action?"""

from __future__ import annotations

import numpy as np

from data_pipelines.sources.families import branch_frames
from data_pipelines.stream.randomness import keyed_generator
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.image_metrics import psnr
from unimodel.evaluation.table import Row
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.rollout import roll_out
from unimodel.world.state import WorldState

CONTEXT_FRAMES = 2


def evaluate_rollouts(loaded: LoadedRun, held_out: HeldOut) -> list[Row]:
    """Accuracy on changed tokens and PSNR after 1 and `rollout_frames` steps of the model's own frames."""
    horizon = loaded.config.evaluation.rollout_frames
    chosen = [i for i, e in enumerate(held_out.tokens) if e.num_frames >= CONTEXT_FRAMES + horizon]
    if not chosen:
        raise ValueError(f"no held-out episode has {CONTEXT_FRAMES + horizon} frames: lower evaluation.rollout_frames")
    tokens = [held_out.tokens[i] for i in chosen]
    worlds = [
        WorldState(e.mission, e.frames[:CONTEXT_FRAMES], e.actions[: CONTEXT_FRAMES - 1], e.events) for e in tokens
    ]
    actions = np.stack([e.actions[CONTEXT_FRAMES - 1 : CONTEXT_FRAMES - 1 + horizon] for e in tokens])
    rolled = roll_out(loaded, worlds, actions)
    rows = []
    for steps in sorted({1, horizon}):
        ahead = "1 step" if steps == 1 else f"{steps} steps"
        at = CONTEXT_FRAMES - 1 + steps
        generated = np.stack([world.frames[at] for world in rolled])
        real = np.stack([e.frames[at] for e in tokens])
        last = np.stack([e.frames[CONTEXT_FRAMES - 1] for e in tokens])
        changed = real != last
        pictures = np.stack([held_out.episodes[i].frames[at] for i in chosen])
        copied = np.stack([held_out.episodes[i].frames[CONTEXT_FRAMES - 1] for i in chosen])
        decoded = loaded.bundle.image.decode(generated)
        if changed.any():  # a coarse tokenizer may not show any change
            constant = float(np.bincount(real[changed]).max() / changed.sum())
            rows.append(
                Row(
                    f"changed token accuracy, {ahead}",
                    loaded.stage,
                    float(np.mean(generated[changed] == real[changed])),
                    constant,
                    "best constant (copying scores 0)",
                    int(changed.sum()),
                )
            )
        rows.append(
            Row(
                f"next frame PSNR, {ahead}",
                loaded.stage,
                psnr(decoded, pictures),
                psnr(copied, pictures),
                "copy the last frame",
                len(chosen),
                "dB",
            )
        )
    return rows


def evaluate_branches(loaded: LoadedRun, held_out: HeldOut) -> Row:
    """Counterfactual action test: from one real state, every action. Is the generated next frame nearest to the real
    next frame of that very action?

    Actions with the same real outcome form one class (turning twice as often would otherwise count twice); each class
    is tried once and chance is one over the number of classes.
    """
    config = loaded.config
    worlds, actions, branches, classes_of, states = [], [], [], [], 0
    for episode, tokens in zip(held_out.episodes, held_out.tokens, strict=True):
        if states == config.evaluation.branch_states:
            break
        rng = keyed_generator("evaluate branches", episode.key)
        at = int(rng.integers(1, episode.num_steps)) if episode.num_steps > 1 else 0
        before, size = episode.actions[:at].tolist(), config.data.recording.image_size
        real = branch_frames(episode.environment, episode.seed, before, size, episode.events)
        classes = np.unique(real.reshape(len(real), -1), axis=0, return_inverse=True)[1].ravel()
        if classes.max() == 0:
            continue
        states += 1
        for kind in range(classes.max() + 1):
            worlds.append(WorldState(tokens.mission, tokens.frames[: at + 1], tokens.actions[:at], tokens.events))
            actions.append(int(rng.choice(np.flatnonzero(classes == kind))))
            branches.append(real)
            classes_of.append(classes)
    stepped = roll_out(loaded, worlds, np.asarray(actions)[:, None])
    decoded = loaded.bundle.image.decode(np.stack([world.frames[-1] for world in stepped])).astype(np.float64)
    right = [
        classes[int(np.argmin(np.mean((real - picture) ** 2, axis=(1, 2, 3))))] == classes[action]
        for picture, real, classes, action in zip(decoded, branches, classes_of, actions, strict=True)
    ]
    chance = float(np.mean([1 / (classes.max() + 1) for classes in classes_of]))
    return Row("counterfactual action accuracy", loaded.stage, float(np.mean(right)), chance, "chance", len(right))
