"""From a stage's config to its stream of packed batches."""

from __future__ import annotations

from pathlib import Path

from data_pipelines.shards.reader import ShardReader
from data_pipelines.stream.bad_sample import BadSample, name_bad_sample
from data_pipelines.stream.loader import PackedStream, StreamSettings
from data_pipelines.stream.mixture import Ingredient, Schedule
from data_pipelines.stream.order import Draw
from data_pipelines.stream.plan import Placed, Plan, StreamState
from data_pipelines.stream.randomness import RekeyedGenerator, keyed_number
from unimodel.batch import CorruptedSequence, TokenSequence
from unimodel.config import MixtureEntry, StageConfig
from unimodel.objectives.corruption import corrupt
from unimodel.tokenizers.tokenised_shards import decode_tokenised, read_shape
from unimodel.tokenizers.unified import SequenceBuilder, TokenisedEpisode, sequence_length


class StageData:
    """Measures and builds the corrupted sequence of any draw of a stage: pure functions of (seed, stage, draw)."""

    def __init__(self, tokens: Path, builder: SequenceBuilder, stage_name: str, stage: StageConfig, seed: int) -> None:
        self._reader = ShardReader(tokens)
        self._builder, self._stage_name, self._stage, self._seed = builder, stage_name, stage, seed
        self._objectives = list(stage.objectives)
        self._rng = RekeyedGenerator()

    def measure(self, draw: Draw) -> int:
        """Tokens of a draw, from the index alone."""
        entry = self._stage.mixture[draw.ingredient]
        shape = read_shape(self._reader, draw.sample)
        choice = self._choice(draw, self._reader.key(draw.sample))
        return sequence_length(entry.sequence, shape, _first_frame(entry, shape.num_frames, choice), entry.frames)

    def build(self, placed: Placed) -> CorruptedSequence | BadSample:
        """The sequence of a draw, or what is wrong with its sample."""
        draw = placed.draw
        try:
            return self._build(draw, placed.length)
        except ValueError as error:
            return name_bad_sample(self._reader, draw.sample, error)

    def _build(self, draw: Draw, planned: int) -> CorruptedSequence:
        entry = self._stage.mixture[draw.ingredient]
        key, fields = self._reader.read(draw.sample)
        episode = decode_tokenised(key, fields)
        sequence = self._sequence(entry, episode, _first_frame(entry, episode.num_frames, self._choice(draw, key)))
        if len(sequence) != planned:
            raise ValueError(f"sample {key} makes {len(sequence)} tokens where the index says {planned}")
        rng = self._rng.keyed(self._seed, self._stage_name, draw.ingredient, draw.epoch, key)
        index = self._objectives.index(entry.objective)
        return corrupt(sequence, self._builder.vocabulary, self._stage.objectives[entry.objective], index, rng)

    def _choice(self, draw: Draw, key: str) -> int:
        """Picks the part of the sample that is looked at."""
        return keyed_number(self._seed, self._stage_name, "part", draw.ingredient, draw.epoch, key)

    def _sequence(self, entry: MixtureEntry, episode: TokenisedEpisode, start: int) -> TokenSequence:
        match entry.sequence:
            case "clip":
                return self._builder.clip(episode, start, entry.frames)
            case "text_to_image":
                return self._builder.text_to_image(episode.captions[start], episode.frames[start], episode.key)
            case "image_to_text":
                return self._builder.image_to_text(episode.frames[start], episode.captions[start], episode.key)
            case "interaction":
                return self._builder.interaction(episode, start, entry.frames)

    def stream(
        self, state: StreamState, pad_id: int, *, rank: int = 0, num_ranks: int = 1, workers: int = 0
    ) -> PackedStream:
        """This rank's batches from `state` on."""
        batch, shard_samples = self._stage.batch, self._reader.shard_samples
        mixture = [Ingredient(entry.sequence, shard_samples, share_schedule(entry)) for entry in self._stage.mixture]
        plan = Plan(
            mixture,
            self.measure,
            seed=self._seed,
            stage=self._stage_name,
            row_tokens=batch.row_tokens,
            total_rows=batch.rows * self._stage.steps,
            state=state,
        )
        settings = StreamSettings(batch.rows, batch.row_tokens, pad_id, rank, num_ranks, workers)
        return PackedStream(plan, self.build, len(mixture), settings)


def share_schedule(entry: MixtureEntry) -> Schedule:
    """The share of an entry along the stage."""
    return entry.share if isinstance(entry.share, tuple) else [(0.0, entry.share)]


def _first_frame(entry: MixtureEntry, num_frames: int, choice: int) -> int:
    """`choice` picks the frame, or the first frame of a window, of an episode."""
    is_window = entry.sequence in ("clip", "interaction")
    return choice % (max(1, num_frames - entry.frames + 1) if is_window else num_frames)
