"""From a stage's config to its stream of packed batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.storage import Folder
from data_pipelines.sources.revisits import revisits
from data_pipelines.stream.bad_sample import BadSample, name_bad_sample
from data_pipelines.stream.loader import PackedStream, StreamSettings
from data_pipelines.stream.mixture import Ingredient, Schedule
from data_pipelines.stream.order import Draw
from data_pipelines.stream.plan import Placed, Plan, StreamState
from data_pipelines.stream.randomness import RekeyedGenerator, keyed_number
from unimodel.batch import CorruptedSequence
from unimodel.config import MixtureEntry, StageConfig
from unimodel.config_memory import MemoryConfig
from unimodel.objectives.corruption import added_tokens, corrupt, weigh_pictures
from unimodel.objectives.policy import ask_agent
from unimodel.objectives.segments import hide_first_picture, join_segments, num_segments
from unimodel.tokenizers.tokenised_shards import decode_tokenised, read_shape
from unimodel.tokenizers.unified import SequenceBuilder, TokenisedEpisode, first_place, sequence_length
from unimodel.vocabulary import Modality


class StageData:
    """Measures and builds the corrupted sequence of any draw of a stage: pure functions of (seed, stage, draw).

    `tokens` are the folders of codes by the name of their source.
    """

    def __init__(
        self, tokens: Mapping[str, Folder], builder: SequenceBuilder, stage_name: str, stage: StageConfig, seed: int
    ) -> None:
        readers = {name: ShardReader(tokens[name]) for name in {entry.source: None for entry in stage.mixture}}
        self._readers = [readers[entry.source] for entry in stage.mixture]
        self._builder, self._stage_name, self._stage, self._seed = builder, stage_name, stage, seed
        self.mixture = [
            Ingredient(entry_name(entry), reader.shard_samples, share_schedule(entry))
            for entry, reader in zip(stage.mixture, self._readers, strict=True)
        ]
        self._objectives = list(stage.objectives)
        self._rng = RekeyedGenerator()

    def measure(self, draw: Draw) -> int:
        """Tokens of a draw, from the index alone. Raises ValueError for a sample that its entry cannot lay out."""
        entry, reader = self._stage.mixture[draw.ingredient], self._readers[draw.ingredient]
        shape = read_shape(reader, draw.sample)
        key = reader.key(draw.sample)
        start = self._start(draw, key, shape.num_frames, shape.caption_tokens[0])
        memory = self._stage.memory
        if memory is not None and entry.sequence == "interaction":
            return num_segments(shape.steps(start, entry.most), memory.segment_frames) * memory.segment_tokens
        try:
            extras = {"has_sink": entry.sink, "asks_agent": self._stage.agent_of(entry) is not None}
            length = sequence_length(entry.sequence, shape, start, entry.most, **extras)
        except ValueError as error:
            raise ValueError(
                f"stage {self._stage_name}: sample {key} of source '{entry.source}': {error}; take another sequence"
            ) from None
        objective, steps = self._stage.objectives[entry.objective], shape.steps(start, entry.most)
        length += added_tokens(objective, steps, shape.step_tokens)
        if memory is not None and length > memory.segment_tokens:
            raise ValueError(
                f"stage {self._stage_name}: sample {key} of source '{entry.source}' makes {length} tokens as "
                f"{entry.sequence}, and a segment has {memory.segment_tokens}: raise memory.segment_tokens"
            )
        return length if memory is None else memory.segment_tokens

    def build(self, placed: Placed) -> CorruptedSequence | BadSample:
        """The sequence of a draw, or what is wrong with its sample."""
        draw, reader = placed.draw, self._readers[placed.draw.ingredient]
        try:
            return self._build(draw, placed.length)
        except ValueError as error:
            return name_bad_sample(reader, draw.sample, error)

    def _build(self, draw: Draw, planned: int) -> CorruptedSequence:
        entry, reader = self._stage.mixture[draw.ingredient], self._readers[draw.ingredient]
        key, fields = reader.read(draw.sample)
        episode = decode_tokenised(key, fields)
        start = self._start(draw, key, episode.num_frames, len(episode.captions[0]))
        agent = self._stage.agent_of(entry)
        discount = agent[1].discount if agent else None
        rng = self._rng.keyed(self._seed, self._stage_name, draw.ingredient, draw.epoch, key)
        memory = self._stage.memory
        if memory is not None and entry.sequence == "interaction":
            return self._segments(memory, entry, episode, start, rng)
        sequence = self._builder.build(
            entry.sequence, episode, start, entry.most, has_sink=entry.sink, discount=discount
        )
        index, objective = self._objectives.index(entry.objective), self._stage.objectives[entry.objective]
        corrupted = corrupt(sequence, self._builder.vocabulary, objective, index, rng)
        if agent and entry.agent is not None:
            asked_by = self._objectives.index(entry.agent)
            corrupted = ask_agent(corrupted, sequence, self._builder.vocabulary, agent[1], asked_by)
        if memory is not None:  # what is no world is one segment, before which there was nothing
            corrupted = join_segments([corrupted], memory.segment_tokens)
        if len(corrupted) != planned:
            raise ValueError(f"sample {key} makes {len(corrupted)} tokens where the index says {planned}")
        return corrupted

    def _segments(
        self, memory: MemoryConfig, entry: MixtureEntry, episode: TokenisedEpisode, start: int, rng: np.random.Generator
    ) -> CorruptedSequence:
        """Up to `entry.frames` frames, segment after segment; the last frame of one is the first of the next."""
        steps = min(start + entry.frames, episode.num_frames) - start - 1
        index, objective = self._objectives.index(entry.objective), self._stage.objectives[entry.objective]
        recalled = np.zeros(steps + 1, dtype=bool)
        if memory.recalled_weight != 1.0:
            recalled[revisits(episode.poses[start : start + steps + 1], memory.segment_frames)[:, 1]] = True
        segments = []
        for number in range(num_segments(steps, memory.segment_frames)):
            first = number * memory.segment_frames
            frames = min(memory.segment_frames, steps - first) + 1
            sequence = self._builder.interaction(episode, start + first, frames)
            corrupted = corrupt(sequence, self._builder.vocabulary, objective, index, rng)
            chosen = recalled[first : first + frames]
            if chosen.any():
                corrupted = weigh_pictures(corrupted, sequence, chosen, memory.recalled_weight)
            if number and memory.hidden_start_fraction and rng.random() < memory.hidden_start_fraction:
                corrupted = hide_first_picture(corrupted, self._builder.vocabulary.mask(Modality.IMAGE))
            segments.append(corrupted)
        return join_segments(segments, memory.segment_tokens)

    def _start(self, draw: Draw, key: str, num_frames: int, text_tokens: int) -> int:
        """Where the part of the sample that is looked at begins."""
        entry, about = self._stage.mixture[draw.ingredient], (draw.ingredient, draw.epoch, key)
        if keyed_number(self._seed, self._stage_name, "last", *about) < entry.last_fraction * 2**64:
            return max(0, num_frames - entry.frames)
        choice = keyed_number(self._seed, self._stage_name, "part", *about)
        return first_place(entry.sequence, num_frames, text_tokens, entry.most, choice)

    def plan(self, state: StreamState) -> Plan:
        """The rows of all ranks from `state` on."""
        batch = self._stage.batch
        return Plan(
            self.mixture,
            self.measure,
            seed=self._seed,
            stage=self._stage_name,
            row_tokens=batch.row_tokens,
            total_rows=batch.rows * self._stage.steps,
            state=state,
        )

    def samples_after(self, state: StreamState) -> list[str]:
        """Source and key of every sample of the step that begins at `state`, over all ranks."""
        rows = self.plan(state).take(self._stage.batch.rows)
        draws = [placed.draw for row in rows for placed in row]
        return [
            f"{self._stage.mixture[d.ingredient].source}/{self._readers[d.ingredient].key(d.sample)}" for d in draws
        ]

    def stream(
        self, state: StreamState, pad_id: int, *, rank: int = 0, num_ranks: int = 1, workers: int = 0
    ) -> PackedStream:
        """This rank's batches from `state` on."""
        batch = self._stage.batch
        settings = StreamSettings(batch.rows, batch.row_tokens, pad_id, rank, num_ranks, workers)
        read_ahead = self.read_ahead if any(reader.is_remote for reader in self._readers) else None
        return PackedStream(self.plan(state), self.build, len(self.mixture), settings, read_ahead)

    def read_ahead(self, draws: Sequence[Draw]) -> None:
        """Has the bytes of these draws fetched in the background."""
        samples: defaultdict[int, list[int]] = defaultdict(list)
        for draw in draws:
            samples[draw.ingredient].append(draw.sample)
        for ingredient, numbers in samples.items():
            self._readers[ingredient].read_ahead(numbers)


def entry_name(entry: MixtureEntry) -> str:
    """What of a mixture an entry is, for logs."""
    return f"{entry.source}/{entry.sequence}"


def share_schedule(entry: MixtureEntry) -> Schedule:
    """The share of an entry along the stage."""
    return entry.share if isinstance(entry.share, tuple) else [(0.0, entry.share)]
