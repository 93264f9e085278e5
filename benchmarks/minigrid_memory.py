"""MiniGrid-Memory: is it known, at the end of the hallway, which of two things was shown at its beginning?

New episodes of each size are recorded, in which the cue is seen once, and a trained run (`configs/recipes/
minigrid_memory.yaml`, which knows S7 alone) foretells the reward of the last step after the real frames before it:
the right thing is taken in half of the episodes. Beside it the same model with an empty memory in every segment, its
window alone, and a plain GRU that was trained on as many of the run's episodes, and on four times as many
(benchmarks/peers/memory_gru.py).

Run: python benchmarks/minigrid_memory.py RUN [--rooms S7 S13 S17Random] [--wander 1 100] [--episodes 300]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from memory_recall import tokenised, trained_gru
from peers.memory_gru import recall_gru

from data_pipelines.sources.recording import Recording, record_dataset
from data_pipelines.sources.since_seen import steps_since_seen
from unimodel.config_file import settings_of
from unimodel.evaluation.memory import Recalled, recall, recall_figures
from unimodel.tokenizers.prepare import read_episodes
from unimodel.training.loaded_run import LoadedRun, load_run

MAX_STEPS = 240
OUTCOMES = "Recalled outcomes"


def record(loaded: LoadedRun, room: str, wander: tuple[int, int], episodes: int, folder: Path) -> None:
    """Test episodes of a room of MiniGrid-Memory, otherwise as those of the run."""
    recording = Recording(seed=loaded.config.seed, **settings_of(loaded.config.data.recording))
    policies = [{"kind": "memory", "wander_steps": wander}]
    counts = {"train_episodes": 0, "validation_episodes": 0, "test_episodes": episodes}
    environment = f"MiniGrid-Memory{room}-v0"
    record_dataset(
        folder, replace(recording, environment=environment, policies=policies, max_steps=MAX_STEPS, **counts)
    )


def lines(answers: dict[str, Sequence[Recalled]], window: int) -> list[str]:
    """Of the table: gaps, how many episodes have them, and what each knows."""
    curves = {
        name: next(c for c in recall_figures(some, some, window, name).curves if c.title == OUTCOMES)
        for name, some in answers.items()
    }
    first = next(iter(curves.values()))
    table = [f"{'steps since the cue, up to':26} " + " ".join(f"{steps:5}" for steps in first.steps)]
    table.append(f"{'episodes':26} " + " ".join(f"{count:5}" for count in first.samples))
    for name, curve in curves.items():
        table.append(f"{name:26} " + " ".join(f"{estimate.value:5.2f}" for estimate in curve.lines[0].estimates))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rooms", nargs="+", default=["S7", "S13", "S17Random"])
    parser.add_argument("--wander", type=int, nargs=2, default=(1, 100), help="steps where the cue cannot be seen")
    parser.add_argument("--episodes", type=int, default=300)
    options = parser.parse_args()
    loaded = load_run(options.run)
    memory = loaded.config.stages[loaded.stage].memory
    if memory is None or not memory.mechanisms:
        parser.error(f"{options.run} has no stage with a memory")
    steps = loaded.config.stages[loaded.stage].steps
    grus = {f"GRU, {times} x the steps": trained_gru(loaded, times * steps) for times in (1, 4)}
    print(f"share of rewards foretold right; chance .5; windows of {memory.segment_frames} steps")
    for room in options.rooms:
        with tempfile.TemporaryDirectory(prefix="unimodel-memory-") as name:
            folder = Path(name)
            record(loaded, room, tuple(options.wander), options.episodes, folder)
            since = [steps_since_seen(episode)[1:] for episode in read_episodes(folder / "test")]
            episodes = tokenised(loaded, folder)
        answers = {
            " + ".join(one.kind for one in memory.mechanisms): recall(loaded, episodes, since, forgets=False),
            "  with an empty memory": recall(loaded, episodes, since, forgets=True),
        } | {name: recall_gru(gru, episodes, since) for name, gru in grus.items()}
        print(f"\n{room}", *lines(answers, memory.segment_frames), sep="\n", flush=True)


if __name__ == "__main__":
    main()
