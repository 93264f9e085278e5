"""What all who play on one server share: the models on their thread, episodes to start from, real environments."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from data_pipelines.shards.index import read_manifest, split_folders
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.storage import Folder
from data_pipelines.sources import minigrid
from data_pipelines.sources.episode import Episode
from data_pipelines.sources.sample import decode_watched
from unimodel.config import RunConfig
from unimodel.run_folder import RunFolder
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.play.controls import Controls
from unimodel.world.play.dream import Checkpoint, Dream
from unimodel.world.play.model_thread import ModelThread
from unimodel.world.play.pace import Pace
from unimodel.world.play.protocol import Mode
from unimodel.world.play.settings import PlaySettings
from unimodel.world.rollout import require_one_agent

HELD_OUT_SPLITS = ("validation", "test", "train")
"""Where episodes to start from are looked for, in this order."""


class Starts:
    """The held-out episodes whose first frames worlds start from."""

    def __init__(self, folder: Folder) -> None:
        splits = split_folders(folder)
        split = next((splits[name] for name in HELD_OUT_SPLITS if name in splits), next(iter(splits.values())))
        self._reader = ShardReader(split)
        first = self.read(0)
        names = read_manifest(split).metadata.get("action_names")
        self.names: tuple[str, ...] = tuple(names or (f"action_{i}" for i in range(first.num_actions)))
        """Of the actions that its environment knows."""
        self.environment: str = first.environment

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, number: int) -> Episode:
        """Raises ValueError when there is none of this number."""
        if not 0 <= number < len(self):
            raise ValueError(f"there are the episodes 0 to {len(self) - 1}, not {number}")
        return decode_watched(*self._reader.read(number))


@dataclass(frozen=True)
class Playground:
    """Shared by all sessions of a server. Its first dream is the run's; a second one is compared with it."""

    run: RunFolder
    model: ModelThread
    starts: Starts
    controls: Controls
    settings: PlaySettings
    pace: Pace
    reality: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "reality"))
    """One thread for all real environments: what draws with OpenGL must stay on the thread that made it."""

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Of the dreams."""
        return tuple(dream.checkpoint for dream in self.model.dreams)

    @property
    def first_mode(self) -> Mode:
        """Grid worlds, and worlds where every action does something, wait for a key."""
        is_grid = self.starts.environment.startswith(minigrid.PREFIXES)
        return "turns" if is_grid or self.controls.idle is None else "real_time"

    @property
    def hears_events(self) -> bool:
        """What a text is that somebody types: an event, where every dream has learnt of them, else a new mission."""
        return all(dream.hears_events for dream in self.model.dreams)

    @property
    def environment(self) -> str | None:
        """What can be played beside a dream; none when the episodes are from elsewhere or actions are inferred ones."""
        knows = all(dream.knows_real_actions for dream in self.model.dreams)
        return self.starts.environment if knows and self.starts.environment else None

    @property
    def text_tokens(self) -> int:
        """Most tokens of a text that every dream can be told."""
        return min(dream.text_tokens for dream in self.model.dreams)

    def close(self) -> None:
        """Ends the threads."""
        self.model.stop()
        self.reality.shutdown(cancel_futures=True)


def open_playground(runs: Sequence[LoadedRun], settings: PlaySettings) -> Playground:
    """A playground of a run, and of a second one to compare it with.

    Raises ValueError when there is nothing to start from, the two do not play the same game, or it has several agents.
    """
    first = runs[0]
    for run in runs:
        require_one_agent(run)
    starts = _starts(first.config, first.run.path)
    height, width = starts.read(0).frames.shape[1:3]
    dreams = [Dream(run, (height, width), settings.compiled_for) for run in runs]
    names = dreams[0].action_names(starts.names)
    for dream in dreams:
        if dream.num_actions < len(names) or dream.action_names(starts.names) != names:
            raise ValueError(
                f"{dream.checkpoint} knows {dream.num_actions} actions and this world has {len(names)}: "
                "compare runs of one world"
            )
    if len({dream.checkpoint for dream in dreams}) < len(dreams):
        raise ValueError(f"--compare is the same checkpoint again ({dreams[0].checkpoint}): name another run")
    model = ModelThread(dreams)
    model.start()
    pace = Pace(settings.passes, 1 / settings.fps)
    return Playground(first.run, model, starts, Controls.of(names), settings, pace)


def _starts(config: RunConfig, path: Path) -> Starts:
    try:
        return Starts(config.data.folder)
    except FileNotFoundError as error:
        raise ValueError(f"run {path} has no episodes to start from: {error}") from None
