"""The model of one stage: the run's decoder, and beside it the memory that the stage asks for."""

from __future__ import annotations

from typing import cast

from torch import nn

from data_pipelines.shards.reader import ShardReader
from unimodel.backbone.model import Backbone, build_decoder
from unimodel.config import RunConfig, StageConfig
from unimodel.memory.build import build_memory
from unimodel.run_folder import RunFolder
from unimodel.tokenizers.bundle import TokenizerBundle
from unimodel.tokenizers.tokenised_shards import read_shape
from unimodel.vocabulary import Modality


def build_stage_model(config: RunConfig, stage: StageConfig, bundle: TokenizerBundle, run: RunFolder) -> Backbone:
    """With weights drawn from the run's seed, or pretrained ones.

    Raises ValueError for a memory of worlds that have no pictures, or pictures that it cannot cut up.
    """
    decoder = build_decoder(config.backbone, bundle.vocabulary, config.seed)
    if stage.memory is None:
        return Backbone(decoder)
    source = next(entry.source for entry in stage.mixture if entry.sequence == "interaction")
    shape = read_shape(ShardReader(run.tokens_of(source, "train")), 0)
    if not shape.rows * shape.columns:
        raise ValueError(f"source '{source}' has no pictures, which a memory keeps: leave `memory` out")
    table = cast(nn.Embedding, decoder.get_input_embeddings()).weight.detach()
    grid, dim, scale = (shape.rows, shape.columns), table.shape[1], float(table.std())
    hidden_id = bundle.vocabulary.mask(Modality.IMAGE)
    return Backbone(decoder, build_memory(stage.memory, grid, dim, scale, config.seed, hidden_id, bundle.odometer))
