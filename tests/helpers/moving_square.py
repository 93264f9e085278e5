"""A square that goes one cell in one of four directions, or stays: pictures whose actions are known, for films."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np

MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0), (0, 0))
STAY, CELLS, PIXELS = 4, 4, 8
SIZE = CELLS * PIXELS


def walk(rng: np.random.Generator, steps: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [steps + 1, 32, 32, 3], and what it did int [steps]: a move into a wall is none."""
    where, done, frames = rng.integers(CELLS, size=2), [], []
    for move in [*rng.integers(len(MOVES), size=steps), STAY]:
        frame = np.full((SIZE, SIZE, 3), 30, dtype=np.uint8)
        top, left = (where * PIXELS).tolist()
        frame[top + 1 : top + 7, left + 1 : left + 7] = (220, 60, 60)
        frames.append(frame)
        moved = np.clip(where + MOVES[move], 0, CELLS - 1)
        done.append(move if (moved != where).any() else STAY)
        where = moved
    return np.stack(frames), np.array(done[:-1])


def write_walk(path: Path, frames: np.ndarray, rate: int) -> None:
    """As an mp4 of so many frames a second."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=rate, options={"crf": "1", "g": "10"})
        video.height, video.width, video.pix_fmt = SIZE, SIZE, "yuv444p"
        for frame in frames:
            for packet in video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in video.encode(None):
            container.mux(packet)
