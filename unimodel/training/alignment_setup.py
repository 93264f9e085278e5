"""What an alignment stage needs beside the model that it trains: the one before it, and a judge of pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipelines.shards.index import read_manifest
from data_pipelines.shards.storage import join
from data_pipelines.sources.families import open_judge
from data_pipelines.sources.minigrid_reading import GridJudge, Verdict
from unimodel.backbone.attention import attention_implementation
from unimodel.backbone.model import Backbone, build_decoder
from unimodel.config import RunConfig
from unimodel.run_folder import RunFolder
from unimodel.tokenizers.bundle import TokenizerBundle
from unimodel.tokenizers.text import BOS, EOS, PAD, token_id
from unimodel.training.alignment import Aligner, Scores
from unimodel.training.checkpoint import stage_checkpoint
from unimodel.training.initial_weights import MEMORY, load_by_name, read_initial_weights


def build_aligner(
    config: RunConfig, run: RunFolder, bundle: TokenizerBundle, name: str, engine: Any, device: torch.device
) -> Aligner:
    """Of stage `name`. Raises ValueError when nobody can judge the run's pictures, FileNotFoundError when the weights
    before the stage are gone."""
    stage, settings = config.stages[name], config.stages[name].alignment
    assert settings is not None
    grid = recorded_judge(config)
    reference = model_before(config, run, bundle, name, device)
    if config.engine.precision == "bf16":
        reference.to(torch.bfloat16)  # rounded like the weights that are trained, or there would be a KL from the start

    def judge(texts: Sequence[np.ndarray], codes: Sequence[np.ndarray]) -> Scores:
        verdicts = judge_pictures(bundle, grid, texts, codes)
        violations = np.array([float(len(verdict.broken)) for verdict in verdicts])
        shares = np.array([verdict.share for verdict in verdicts])
        right = np.array([float(verdict.is_right) for verdict in verdicts])
        sides = [math.isqrt(len(some)) for some in codes]
        places = [right_places(verdict.cells, side) for verdict, side in zip(verdicts, sides, strict=True)]
        return Scores(shares - settings.violation_cost * violations, right, violations, places)

    delimiters = tuple(token_id(bundle.text, token) for token in (PAD, BOS, EOS))
    return Aligner(engine, reference, stage, bundle.vocabulary, delimiters, judge, (config.seed, name))


def recorded_judge(config: RunConfig) -> GridJudge:
    """Of the environment that the run's episodes were recorded from. Raises ValueError when it has no judge."""
    recording = read_manifest(join(config.data.folder, "train")).metadata.get("recording", {})
    return open_judge(recording.get("environment", ""), config.data.recording.image_size)


def judge_pictures(
    bundle: TokenizerBundle, judge: GridJudge, texts: Sequence[np.ndarray], codes: Sequence[np.ndarray]
) -> list[Verdict]:
    """Of texts (ids without delimiters) and the codes [tokens] of a square picture of each."""
    if not texts:
        return []
    side = math.isqrt(len(codes[0]))
    pictures = bundle.image.decode(np.stack(codes).reshape(len(codes), side, side))
    return judge.judge([str(bundle.text.decode(text.tolist())) for text in texts], pictures)


def right_places(cells: np.ndarray, side: int) -> np.ndarray:
    """float64 [side * side] for the tokens of a square picture: the share of each that shows right `cells`, bool [rows,
    columns]."""
    fine = math.lcm(len(cells), side)
    pixels = np.kron(cells, np.ones((fine // len(cells), fine // len(cells))))
    return pixels.reshape(side, fine // side, side, fine // side).mean(axis=(1, 3)).ravel()


def weights_before(config: RunConfig, run: RunFolder, name: str) -> Mapping[str, Tensor]:
    """What stage `name` starts from, when it is an alignment stage: the moving average of the stage before it, or the
    run's initial weights. Raises FileNotFoundError when they are gone."""
    names = [other for other, _ in config.ordered_stages]
    number = names.index(name)
    if not number:
        return read_initial_weights(config.initial_weights)
    return stage_checkpoint(run.checkpoints, names[number - 1]).state().weights(averaged=True)


def model_before(
    config: RunConfig, run: RunFolder, bundle: TokenizerBundle, name: str, device: torch.device
) -> Backbone:
    """The model with `weights_before`, for reading only."""
    backbone = Backbone(build_decoder(config.backbone, bundle.vocabulary, config.seed))
    load_by_name(backbone, weights_before(config, run, name), whole=True, but=MEMORY)
    backbone.decoder.set_attn_implementation(attention_implementation(device))
    return backbone.to(device).eval().requires_grad_(False)
