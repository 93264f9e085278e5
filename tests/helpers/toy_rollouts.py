"""Rollouts of known models in a world of coloured squares: what each figure must be can be told by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unimodel.evaluation.rollouts import Frames, Outcomes, Rollout

SIDE, PIXELS, COLOURS = 3, 8, 6
PALETTE = np.random.default_rng(5).integers(40, 216, size=(COLOURS, 3), dtype=np.uint8)
LOSS = 4
"""What this world's tokenizer is off by, in every colour value."""

Model = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""The model's codes from the real ones [steps, rows, columns] and the last given frame."""


def paint(codes: np.ndarray) -> np.ndarray:
    """uint8 [..., SIDE * PIXELS, SIDE * PIXELS, 3]: a square of one colour per code."""
    return PALETTE[codes].repeat(PIXELS, axis=-3).repeat(PIXELS, axis=-2)


def perfect(real: np.ndarray, given: np.ndarray) -> np.ndarray:
    return real


def frozen(real: np.ndarray, given: np.ndarray) -> np.ndarray:
    return np.broadcast_to(given, real.shape)


def toy_rollout(seed: int, steps: int, model: Model) -> Rollout:
    """A world in which one square changes its colour in every step; its tokenizer makes every value LOSS too bright."""
    rng = np.random.default_rng(seed)
    frames = [rng.integers(COLOURS, size=(SIDE, SIDE))]
    for _ in range(steps):
        frame = frames[-1].copy()
        place = tuple(rng.integers(SIDE, size=2))
        frame[place] = (frame[place] + rng.integers(1, COLOURS)) % COLOURS
        frames.append(frame)
    given, real = frames[0], np.stack(frames[1:])
    made = model(real, given)
    nothing = Outcomes(np.zeros(steps), np.zeros(steps))
    return Rollout(
        key=f"episode-{seed}",
        real=Frames(real, paint(real)),
        made=Frames(made, paint(made) + np.uint8(LOSS)),
        given=Frames(given, paint(given)),
        ceiling=paint(real) + np.uint8(LOSS),
        happened=nothing,
        expected=nothing,
    )
