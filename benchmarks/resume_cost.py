"""What it costs to restore a stream: at step 10 and at step 1,000,000 of an index of 100,000 shards x 10,000 samples.

Shards and tables are hard links to a few real ones, the manifest really has all entries; three ingredients, each with
an order of its own. Every figure is of a fresh process: from when the libraries are imported to the first batch, and
the memory that it then holds more than before; "later" is after it went to 20 other places of the stream.

Run: python benchmarks/resume_cost.py [--shards 100000] [--samples 10000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from data_pipelines.shards.index import Manifest, write_manifest
from data_pipelines.shards.table import table_path
from data_pipelines.shards.writer import write_shard
from data_pipelines.stream.plan import WINDOW_ROWS, StreamState
from unimodel.config import EPISODES, StageConfig
from unimodel.tokenizers.tokenised_shards import encode_tokenised, tokenised_lengths
from unimodel.tokenizers.unified import SequenceBuilder, TokenisedEpisode
from unimodel.training.data import StageData
from unimodel.vocabulary import Vocabulary

REAL_SHARDS = 3
"""Fewer than 65,000 links to each, as many file systems allow."""
ROWS, ROW_TOKENS, STEPS = 16, 512, 2_000_000
VOCABULARY = Vocabulary(text_size=512, image_size=1024, action_size=7, reward_size=63, done_size=2)
STAGE = {
    "number": 1,
    "steps": STEPS,
    "batch": {"rows": ROWS, "row_tokens": ROW_TOKENS},
    "mixture": [
        {"sequence": "interaction", "objective": "next", "frames": 4, "share": 2.0},
        {"sequence": "clip", "objective": "next"},
        {"sequence": "image_to_text", "objective": "next"},
    ],
    "objectives": {"next": {"kind": "next_token"}},
}
LATE = 1_000_000


def make_index(folder: Path, num_shards: int, num_samples: int) -> None:
    """A folder of `num_shards` shards of `num_samples` samples."""
    rng = np.random.default_rng(0)
    real = [
        write_shard(
            folder / f"real-{number}.tar",
            (
                (episode.key, encode_tokenised(episode), tokenised_lengths(episode))
                for episode in (_episode(rng, f"{number}-{i:06d}") for i in range(num_samples))
            ),
        )
        for number in range(REAL_SHARDS)
    ]
    shards = []
    for number in range(num_shards):
        source = real[number % REAL_SHARDS]
        path = folder / f"shard-{number:06d}.tar"
        os.link(folder / source.file, path)
        os.link(table_path(folder / source.file), table_path(path))
        shards.append(replace(source, file=path.name))
    write_manifest(folder, Manifest(tuple(shards), {"kind": "tokenised episodes"}))


def _episode(rng: np.random.Generator, key: str) -> TokenisedEpisode:
    frames = int(rng.integers(4, 13))
    words = [rng.integers(3, 512, size=size) for size in rng.integers(8, 24, size=frames + 1)]
    return TokenisedEpisode(
        key=key,
        frames=rng.integers(1024, size=(frames, 4, 4)),
        audio=np.zeros((frames, 0), dtype=np.int64),
        actions=rng.integers(7, size=frames - 1),
        rewards=np.zeros(frames - 1, dtype=np.float32),
        done=np.zeros(frames - 1, dtype=bool),
        mission=words[0],
        captions=tuple(words[1:]),
    )


def restore(folder: Path, state: StreamState) -> dict[str, float]:
    """In this process: seconds, and the memory that stays, in MB."""
    stage = StageConfig.model_validate_json(json.dumps(STAGE))
    before, began = _memory_mb(), time.perf_counter()
    data = StageData({EPISODES: folder}, SequenceBuilder(VOCABULARY, 1, 2), "stage", stage, seed=0)
    opened = time.perf_counter()
    stream = data.stream(state, pad_id=0)
    next(stream)
    first = time.perf_counter()
    after = _memory_mb()
    for place in range(1, 21):
        stream.load_state_dict(asdict(replace(state, drawn=tuple(d + 400_000 * place for d in state.drawn))))
        next(stream)
    later = _memory_mb()
    return {
        "open": opened - began,
        "first batch": first - opened,
        "total": first - began,
        "private MB": after["RssAnon"] - before["RssAnon"],
        "mapped MB": after["RssFile"] - before["RssFile"],
        "peak MB": after["VmHWM"] - before["VmRSS"],
        "later MB": later["VmRSS"] - before["VmRSS"],
        "later peak MB": later["VmHWM"] - before["VmRSS"],
        "libraries MB": before["VmRSS"],
    }


def _memory_mb() -> dict[str, float]:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0].rstrip(":"): int(line[1]) / 1000 for line in lines if line[-1] == "kB"}


def states(folder: Path) -> dict[int, StreamState]:
    """Of step 10 by going there; of a late step by the shares, since going there would take days."""
    stage = StageConfig.model_validate_json(json.dumps(STAGE))
    data = StageData({EPISODES: folder}, SequenceBuilder(VOCABULARY, 1, 2), "stage", stage, seed=0)
    stream = data.stream(StreamState(), 0)
    for _ in range(10):
        next(stream)
    early = stream.state
    for _ in range(2 * WINDOW_ROWS // ROWS):
        next(stream)
    window, row = divmod(LATE * ROWS, WINDOW_ROWS)
    drawn = tuple(number * window // stream.state.window for number in stream.state.drawn)
    return {10: early, LATE: StreamState(window, row + 7, drawn, stream.state.owed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--restore", nargs=2, metavar=("FOLDER", "STATE"), help="of a fresh process")
    given = parser.parse_args()
    if given.restore:
        print(json.dumps(restore(Path(given.restore[0]), StreamState.from_json(json.loads(given.restore[1])))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_index(folder, given.shards, given.samples)
        size = (folder / "index.json").stat().st_size / 1e6
        print(f"{given.shards:,} shards x {given.samples:,} samples, index.json {size:.1f} MB")
        found = states(folder)
        results: dict[int, list[dict[str, float]]] = {step: [] for step in found}
        for _ in range(given.rounds):
            for step, state in found.items():
                results[step].append(_in_a_fresh_process(folder, state))
    _report(results)


def _in_a_fresh_process(folder: Path, state: StreamState) -> dict[str, float]:
    command = [sys.executable, __file__, "--restore", str(folder), json.dumps(asdict(state))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def _report(results: dict[int, list[dict[str, float]]]) -> None:
    medians = {
        step: {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        for step, rounds in results.items()
    }
    for step, values in medians.items():
        seconds = ", ".join(f"{name} {values[name]:.2f} s" for name in ("open", "first batch", "total"))
        memory = ", ".join(f"{name} {values[name]:.0f}" for name in values if name.endswith("MB"))
        print(f"restored at step {step:>9,}: {seconds}; {memory}")
    early, late = (values["total"] for values in medians.values())
    print(f"late / early {late / early:.2f}, medians of {len(next(iter(results.values())))}")


if __name__ == "__main__":
    main()
