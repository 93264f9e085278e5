"""What a stage's batches look like: read from the run's own tokens where it has them, assumed where not."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from data_pipelines.stream.plan import StreamState
from unimodel.config import RunConfig, StageConfig
from unimodel.layout import NO_TARGET
from unimodel.run_folder import RunFolder, read_json
from unimodel.tokenizers.action import REWARD_BINS
from unimodel.tokenizers.bundle import VOCABULARY_FILE, TokenizerBundle
from unimodel.tokenizers.finished import has_tokenizers, has_tokens, source_names
from unimodel.tokenizers.prepare import load_run_bundle
from unimodel.training.data import StageData, share_schedule
from unimodel.vocabulary import Modality, Vocabulary

LOOKED_AT_STEPS = 20
ASSUMED_TARGETS = 0.5
"""Of all places: a masked objective hides half of a sample on average."""
ASSUMED_FILL = 0.98
ASSUMED_ACTIONS = 32
MAIN_MODALITY = {
    "text": Modality.TEXT,
    "image_to_text": Modality.TEXT,
    "audio_to_text": Modality.TEXT,
    "text_to_audio": Modality.AUDIO,
}
"""Of what a kind of sequence asks for; pictures otherwise."""


@dataclass(frozen=True, slots=True)
class BatchShape:
    """Of one row, on average."""

    length: int
    targets: tuple[tuple[Modality, float], ...]
    tokens: float
    samples: float
    assumed: bool


def planned_vocabulary(config: RunConfig, run: RunFolder) -> Vocabulary:
    """The run's own, or what its config will lead to."""
    file = run.tokenizers / VOCABULARY_FILE
    if file.exists():
        return Vocabulary.from_dict(read_json(file))
    tokenizers = config.tokenizers
    kinds = {entry.sequence for stage in config.stages.values() for entry in stage.mixture}
    return Vocabulary(
        text_size=tokenizers.text.vocabulary_size,
        image_size=math.prod(tokenizers.image.levels),
        audio_size=math.prod(tokenizers.audio.levels) if kinds & {"text_to_audio", "audio_to_text"} else 0,
        action_size=ASSUMED_ACTIONS,
        reward_size=REWARD_BINS,
    )


def batch_shapes(config: RunConfig, run: RunFolder) -> dict[str, BatchShape]:
    """Of every stage. Raises ValueError where the run has tokenizers of other settings."""
    if not has_tokenizers(config, run) or not has_tokens(config, run):
        return {name: _assumed(stage) for name, stage in config.ordered_stages}
    bundle = load_run_bundle(run)
    tokens = {source: run.tokens_of(source, "train") for source in source_names(config)}
    return {
        name: _looked_at(StageData(tokens, bundle.builder, name, stage, config.seed), stage, bundle)
        for name, stage in config.ordered_stages
    }


def _looked_at(data: StageData, stage: StageConfig, bundle: TokenizerBundle) -> BatchShape:
    steps, vocabulary = min(LOOKED_AT_STEPS, stage.steps), bundle.vocabulary
    stream = data.stream(StreamState(), bundle.pad_id)
    counted: Counter[Modality] = Counter()
    tokens = samples = 0
    for _ in range(steps):
        batch = next(stream).batch
        targets = batch.target[batch.target != NO_TARGET]
        for modality in Modality:
            ids = vocabulary.range_of(modality)
            counted[modality] += int(((targets >= ids.start) & (targets < ids.stop)).sum())
        tokens += batch.num_tokens
        samples += sum(len(row.unique()) - int((row < 0).any()) for row in batch.document)
    stream.close()
    rows = steps * stage.batch.rows
    targets = tuple((modality, number / rows) for modality, number in sorted(counted.items()) if number)
    return BatchShape(stage.batch.row_tokens, targets, tokens / rows, samples / rows, assumed=False)


def _assumed(stage: StageConfig) -> BatchShape:
    length = stage.batch.row_tokens
    shares = [(share_schedule(entry)[-1][1], entry) for entry in stage.mixture]
    whole = sum(share for share, _ in shares) or 1.0
    targets: dict[Modality, float] = {}
    for share, entry in shares:
        modality = MAIN_MODALITY.get(entry.sequence, Modality.IMAGE)
        targets[modality] = targets.get(modality, 0.0) + ASSUMED_TARGETS * length * share / whole
    return BatchShape(length, tuple(sorted(targets.items())), ASSUMED_FILL * length, 1.0, assumed=True)
