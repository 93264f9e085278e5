"""Shards of random tokens, and a stream of packed batches that reads them wherever they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from toy_sequences import PAD_ID, laid_out

from data_pipelines.shards.index import Manifest, write_manifest
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.writer import write_shard
from data_pipelines.stream.loader import BadSample, PackedStream, StreamSettings
from data_pipelines.stream.mixture import Ingredient
from data_pipelines.stream.order import Draw
from data_pipelines.stream.plan import Placed, Plan
from unimodel.batch import CorruptedSequence
from unimodel.layout import CAUSAL


def write_toy_shards(
    folder: Path, shards: int = 6, samples: int = 20, longest_tokens: int = 30, filler: int = 0
) -> None:
    """Samples of 1 .. longest_tokens tokens and `filler` bytes beside them."""
    rng = np.random.default_rng(5)
    entries = []
    for shard in range(shards):
        made = []
        for number in range(samples):
            ids = rng.integers(1, 1000, size=rng.integers(1, longest_tokens + 1))
            fields = {"ids.bin": ids.astype(np.int64).tobytes(), "filler.bin": rng.bytes(filler)}
            made.append((f"s{shard}-{number}", fields, {"tokens": len(ids)}))
        entries.append(write_shard(folder / f"toy-{shard:03d}.tar", made))
    write_manifest(folder, Manifest(tuple(entries), {"kind": "toy"}))


class ToyData:
    """Measures and builds draws of one reader."""

    def __init__(self, reader: ShardReader, row_tokens: int = 40, rows: int = 4) -> None:
        self.reader, self.row_tokens, self.rows = reader, row_tokens, rows

    def measure(self, draw: Draw) -> int:
        return self.reader.lengths(draw.sample, "tokens")[0][0]

    def build(self, placed: Placed) -> CorruptedSequence | BadSample:
        try:
            _, fields = self.reader.read(placed.draw.sample)
        except ValueError as error:
            return BadSample(str(self.reader.place(placed.draw.sample)[0]), "", -1, str(error))
        ids = np.frombuffer(fields["ids.bin"], dtype=np.int64)
        return laid_out(ids, np.full(len(ids), CAUSAL))

    def stream(self, workers: int = 0, is_ahead: bool = True) -> PackedStream:
        ingredient = Ingredient("toy", self.reader.shard_samples, [(0.0, 1.0)])
        plan = Plan([ingredient], self.measure, seed=1, stage="s", row_tokens=self.row_tokens, total_rows=10**6)
        settings = StreamSettings(self.rows, self.row_tokens, PAD_ID, workers=workers, timeout_seconds=60.0)
        return PackedStream(plan, self.build, 1, settings, self._ahead if is_ahead and self.reader.is_remote else None)

    def _ahead(self, draws: list[Draw] | tuple[Draw, ...]) -> None:
        self.reader.read_ahead([draw.sample for draw in draws])
