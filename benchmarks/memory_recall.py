"""What models with a memory still know after gaps far longer than they were trained on, beside a plain GRU.

The runs are of one world (`configs/recipes/memory_recall.yaml`), trained with one memory each, or none. New episodes of
it are recorded, longer and with longer gaps, and every run is asked the same of them after the real frames before it
(unimodel/evaluation/memory.py), and again with an empty memory in every segment. The GRU is trained on the episodes of
the first run, as many of them as that run had (benchmarks/peers/memory_gru.py).

Run: python benchmarks/memory_recall.py RUN [RUN ...] [--steps 120] [--gaps 40 100]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from peers.memory_gru import FrameGru, recall_gru, train_gru

from data_pipelines.shards.reader import ShardReader
from data_pipelines.sources.episode import Episode
from data_pipelines.sources.recording import Recording, record_dataset
from data_pipelines.sources.since_seen import steps_since_seen
from unimodel.config import EPISODES
from unimodel.config_file import settings_of
from unimodel.evaluation.memory import Recalled, recall, recall_figures
from unimodel.tokenizers.prepare import read_episodes, read_sample
from unimodel.tokenizers.tokenise import tokenise_sample
from unimodel.tokenizers.tokenised_shards import decode_tokenised
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.training.loaded_run import LoadedRun, load_run

EPISODES_TESTED, GRU_WIDTH = 100, 256


def record_longer(loaded: LoadedRun, steps: int, gaps: tuple[int, int], folder: Path) -> list[Episode]:
    """Test episodes of the run's world: a fifth with gaps as short as those trained on, others drawn from 8 steps on,
    half of them with long ones alone."""
    policies = [
        {"kind": "recall", "gap_steps": some, "share": share}
        for some, share in (((2, 12), 0.2), ((8, gaps[1]), 0.3), (gaps, 0.5))
    ]
    recording = Recording(seed=loaded.config.seed, **settings_of(loaded.config.data.recording))
    counts = {"train_episodes": 0, "validation_episodes": 0, "test_episodes": EPISODES_TESTED}
    record_dataset(folder, replace(recording, policies=policies, max_steps=steps, **counts))
    return list(read_episodes(folder / "test"))


def tokenised(loaded: LoadedRun, folder: Path) -> list[TokenisedEpisode]:
    """In the codes of a run."""
    reader = ShardReader(folder / "test")
    samples = (read_sample(loaded.config, EPISODES, reader, number) for number in range(len(reader)))
    return [tokenise_sample(sample, loaded.bundle) for sample in samples]


def told(name: str, answers: Sequence[Recalled], empty: Sequence[Recalled], window: int) -> str:
    """A line of the table: accuracy in each group of gaps, and the half-life."""
    found = recall_figures(answers, empty, window, name)
    details, curve = found.details, found.curves[0]
    by_gap = "  ".join(f"{estimate.value:5.3f}" for estimate in curve.lines[0].estimates)
    return f"{name:24} {by_gap}  half-life {details[0].model:g} windows"


def head(answers: Sequence[Recalled], window: int) -> str:
    """Above the table."""
    curve = recall_figures(answers, answers, window, "").curves[0]
    gaps, frames = ("  ".join(f"{number:5}" for number in some) for some in (curve.steps, curve.samples))
    title = f"windows of {window} steps; gaps up to so many steps, and frames with such gaps"
    return f"{title}\n{'':24} {gaps}\n{'':24} {frames}"


def trained_gru(loaded: LoadedRun, steps: int | None = None) -> FrameGru:
    """On the episodes that the run was trained on, for as many steps or so many."""
    reader = ShardReader(loaded.run.tokens_of(EPISODES, "train"))
    return train_gru(
        loaded, [decode_tokenised(*reader.read(number)) for number in range(len(reader))], GRU_WIDTH, steps
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=120, help="of an episode")
    parser.add_argument("--gaps", type=int, nargs=2, default=(40, 100), help="shortest and longest, in steps")
    options = parser.parse_args()
    runs = [load_run(path) for path in options.runs]
    for loaded in runs:
        if loaded.config.stages[loaded.stage].memory is None:
            parser.error(f"{loaded.run.path} has no stage with a memory (`mechanisms: []` is one with nothing in it)")
    with tempfile.TemporaryDirectory(prefix="unimodel-recall-") as name:
        episodes = record_longer(runs[0], options.steps, tuple(options.gaps), Path(name))
        since = [steps_since_seen(episode)[1:] for episode in episodes]
        for number, loaded in enumerate(runs):
            memory, tokens = loaded.config.stages[loaded.stage].memory, tokenised(loaded, Path(name))
            assert memory is not None
            ours, empty = (recall(loaded, tokens, since, forgets=forgets) for forgets in (False, True))
            if number == 0:
                gru = recall_gru(trained_gru(loaded), tokens, since)
                print(head(gru, memory.segment_frames))
                print(told("GRU", gru, empty, memory.segment_frames))
            print(told(loaded.run.path.name, ours, empty, memory.segment_frames))
            print(told("  with an empty memory", empty, empty, memory.segment_frames), flush=True)


if __name__ == "__main__":
    main()
