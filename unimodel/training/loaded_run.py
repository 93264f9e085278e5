"""A trained run, ready to use: the backbone of one finished stage with the run's tokenizers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from unimodel.backbone.attention import attention_implementation
from unimodel.backbone.model import Backbone
from unimodel.config import RunConfig
from unimodel.run_folder import RunFolder
from unimodel.tokenizers.bundle import TokenizerBundle
from unimodel.tokenizers.prepare import load_run_bundle
from unimodel.training.checkpoint import stage_checkpoint
from unimodel.training.finished import last_finished_stage
from unimodel.training.initial_weights import load_by_name
from unimodel.training.stage_model import build_stage_model


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """`backbone` is in evaluation mode with the averaged weights of `stage`'s last step."""

    run: RunFolder
    config: RunConfig
    bundle: TokenizerBundle
    backbone: Backbone
    stage: str
    step: int
    sha256: str
    """Of the checkpoint: equal for equal ones alone."""

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device


def load_run(path: Path, stage: str | None = None) -> LoadedRun:
    """Loads `stage`, or the last stage that is finished.

    Raises FileNotFoundError when `path` is no run or the stage is not finished, ValueError for an unknown stage.
    """
    run = RunFolder(path)
    config = run.config()
    names = [name for name, _ in config.ordered_stages]
    if stage is not None and stage not in names:
        raise ValueError(f"run {path} has no stage '{stage}'; its stages are {', '.join(names)}")
    stage = stage or last_finished_stage(config, run)
    checkpoint = stage_checkpoint(run.checkpoints, stage)
    bundle = load_run_bundle(run)
    backbone = build_stage_model(config, config.stages[stage], bundle, run)
    load_by_name(backbone, checkpoint.state().weights(averaged=True), whole=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone.decoder.set_attn_implementation(attention_implementation(device))
    backbone = backbone.to(device).eval()
    return LoadedRun(run, config, bundle, backbone, stage, checkpoint.position.step, checkpoint.sha256)
