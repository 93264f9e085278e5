"""Does another action lead elsewhere? The model's own frames with the true actions beside those with others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.sources.episode import UNKNOWN_ACTION
from data_pipelines.stream.randomness import keyed_generator
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.image_metrics import squared_errors
from unimodel.evaluation.intervals import over_episodes
from unimodel.evaluation.rollouts import CONTEXT_FRAMES, Rollout, actions_from_start, start_of
from unimodel.evaluation.table import Row
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.rollout import roll_out

DELTA_STEPS = (1, 4)
MOST_EPISODES = 50


def roll_other_actions(loaded: LoadedRun, held_out: HeldOut) -> dict[str, np.ndarray]:
    """Episode key -> uint8 [4, height, width, 3]: its rollout when at every step another action is taken, by each of
    several agents, drawn evenly from those that were not. Of the first 50 episodes that go on for 4 steps; fewer steps
    where none goes on so long or `evaluation.horizons` end before."""
    longest = max(episode.num_frames for episode in held_out.tokens) - CONTEXT_FRAMES
    steps = min(DELTA_STEPS[-1], longest, max(loaded.config.evaluation.horizons))
    chosen = [
        (real, tokens)
        for real, tokens in zip(held_out.episodes, held_out.tokens, strict=True)
        if tokens.num_frames >= CONTEXT_FRAMES + steps and len(loaded.bundle.alternatives(real.num_actions)) > 1
    ][:MOST_EPISODES]
    if not chosen:
        return {}
    actions = []
    for real, tokens in chosen:
        true = actions_from_start(tokens, steps)
        possible = loaded.bundle.alternatives(real.num_actions)
        away = keyed_generator("evaluate other actions", real.key).integers(1, len(possible), size=true.shape)
        other = possible.start + (true - possible.start + away) % len(possible)
        actions.append(np.where(true == UNKNOWN_ACTION, true, other))
    rolled = roll_out(loaded, [start_of(tokens) for _, tokens in chosen], np.stack(actions))
    codes = np.concatenate([world.frames[CONTEXT_FRAMES:] for world in rolled])
    pictures = np.split(loaded.bundle.image.decode(codes), len(chosen))
    return {real.key: made for (real, _), made in zip(chosen, pictures, strict=True)}


def evaluate_other_actions(rollouts: Sequence[Rollout], others: dict[str, np.ndarray], stage: str) -> list[Row]:
    """delta-PSNR (Genie, arXiv 2402.15391, section 3): PSNR(real frame, made with the true actions) - PSNR(real frame,
    made with others), in dB, at steps 1 and 4. 0 for a model that ignores actions."""
    rows = []
    both = [(rollout, others[rollout.key]) for rollout in rollouts if rollout.key in others]
    for steps in DELTA_STEPS:
        some = [(rollout, other) for rollout, other in both if min(len(other), rollout.steps) >= steps]
        if not some:
            continue
        real = np.stack([rollout.real.pictures[steps - 1] for rollout, _ in some])
        true = squared_errors(np.stack([rollout.made.pictures[steps - 1] for rollout, _ in some]), real)
        other = squared_errors(np.stack([pictures[steps - 1] for _, pictures in some]), real)
        delta = over_episodes(psnr_gain, true, other)
        ahead = "1 step" if steps == 1 else f"{steps} steps"
        name = f"delta-PSNR, {ahead}"
        rows.append(Row(name, stage, delta.value, 0.0, "actions ignored", len(some), "dB", interval=delta.interval))
    return rows


def psnr_gain(errors: np.ndarray, others: np.ndarray, axis: int = -1) -> np.ndarray:
    """PSNR of pooled squared `errors` less that of `others`, over the same frames: 10 log10(others / errors)."""
    return 10 * np.log10(others.sum(axis=axis) / errors.sum(axis=axis))
