"""From a stage's config to its stream of packed batches."""

from __future__ import annotations

from pathlib import Path

from data_pipelines.shards.reader import ShardReader
from data_pipelines.stream.order import Draw, Ingredient, MixtureOrder, StreamState
from data_pipelines.stream.packing import PackedStream
from data_pipelines.stream.randomness import keyed_generator
from unimodel.batch import CorruptedSequence, TokenSequence
from unimodel.config import MixtureEntry, StageConfig
from unimodel.objectives.corruption import corrupt
from unimodel.tokenizers.tokenised_shards import decode_tokenised
from unimodel.tokenizers.unified import SequenceBuilder, TokenisedEpisode


class StageData:
    """Builds the corrupted sequence of any draw of a stage: a pure function of (seed, stage, draw)."""

    def __init__(self, tokens: Path, builder: SequenceBuilder, stage_name: str, stage: StageConfig, seed: int) -> None:
        self._reader = ShardReader(tokens)
        self._builder, self._stage_name, self._stage, self._seed = builder, stage_name, stage, seed
        self._objectives = list(stage.objectives)
        ingredients = [Ingredient(len(self._reader), entry.share) for entry in stage.mixture]
        self.order = MixtureOrder(ingredients, seed, stage_name)

    def build(self, draw: Draw) -> CorruptedSequence:
        entry = self._stage.mixture[draw.ingredient]
        key, fields = self._reader.read(draw.sample)
        rng = keyed_generator(self._seed, self._stage_name, draw.ingredient, draw.epoch, key)
        sequence = self._sequence(entry, decode_tokenised(key, fields), int(rng.integers(1 << 30)))
        index = self._objectives.index(entry.objective)
        return corrupt(sequence, self._builder.vocabulary, self._stage.objectives[entry.objective], index, rng)

    def _sequence(self, entry: MixtureEntry, episode: TokenisedEpisode, choice: int) -> TokenSequence:
        """`choice` picks the frame, or the first frame of a window, of the episode."""
        frame = choice % episode.num_frames
        start = choice % max(1, episode.num_frames - entry.frames + 1)
        match entry.sequence:
            case "clip":
                return self._builder.clip(episode, start, entry.frames)
            case "text_to_image":
                return self._builder.text_to_image(episode.captions[frame], episode.frames[frame], episode.key)
            case "image_to_text":
                return self._builder.image_to_text(episode.frames[frame], episode.captions[frame], episode.key)
            case "interaction":
                return self._builder.interaction(episode, start, entry.frames)

    def stream(self, state: StreamState, rank: int, num_ranks: int, pad_id: int) -> PackedStream:
        """This rank's batches from `state` on."""
        return PackedStream(
            self.order,
            self.build,
            rows=self._stage.batch.rows,
            row_tokens=self._stage.batch.row_tokens,
            pad_id=pad_id,
            state=state,
            rank=rank,
            num_ranks=num_ranks,
        )
