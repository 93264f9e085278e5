"""Learning rate as a function of the step: linear warmup, then cosine, WSD or constant."""

from __future__ import annotations

import math

from unimodel.config import OptimizerConfig


def learning_rate(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """The rate of step `step` (from 0) of a stage of `num_steps` steps. WSD: arXiv 2404.06395, section 4."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    final = config.final_fraction
    match config.schedule:
        case "constant":
            scale = 1.0
        case "cosine":
            progress = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
            scale = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        case "wsd":
            decay_steps = max(1.0, num_steps * config.decay_fraction)
            scale = 1 - (1 - final) * min(1.0, max(0.0, (step + 1 - (num_steps - decay_steps)) / decay_steps))
    return config.learning_rate * scale
