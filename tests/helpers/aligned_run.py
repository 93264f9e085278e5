"""A tiny run of two stages: a few steps that draw pictures from captions, and a few that align them."""

from __future__ import annotations

from pathlib import Path

from tiny_run import TinyRun, tiny_run


def alignment(kind: str) -> str:
    """The stage, as after `stages.aligned=`."""
    return (
        "{number: 5, steps: 4, batch: {rows: 2, row_tokens: 128}, optimizer: {learning_rate: 1.0e-3, ema_decay: 0.0}, "
        "mixture: [{sequence: text_to_image, objective: aligned}], "
        f"objectives: {{aligned: {{kind: {kind}, group: 2, masks: 1, max_kl: 1.0, drawing: {{steps: 2}}}}}}}}"
    )


def aligned_run(folder: Path, kind: str = "grpo", *overrides: str) -> TinyRun:
    """Stages `unified` of 3 steps and `aligned` of 4, with a checkpoint of every step."""
    settings = (f"stages.aligned={alignment(kind)}", "checkpoint.keep_last=9", "checkpoint.every_steps=1")
    return tiny_run(folder, "stages.unified.steps=3", *settings, *overrides, stages=("unified",))
