"""Where worlds begin: the first frames of recorded episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.storage import join
from data_pipelines.sources.episode import decode_about
from data_pipelines.stream.randomness import keyed_generator
from unimodel.config import EPISODES
from unimodel.tokenizers.tokenised_shards import decode_tokenised
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.state import WorldState

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Start:
    """The beginning of a recorded episode, in the model's tokens and as the real environment finds it again."""

    state: WorldState
    mission: str
    environment: str
    seed: int
    view_cells: int | None = None


def random_moments(loaded: LoadedRun, split: Split, count: int, frames: int, seed: int) -> list[WorldState]:
    """Up to `frames` frames before random moments of random episodes; the last of an episode is none of them.

    Raises FileNotFoundError when the split was not tokenised, ValueError when none of it has a step.
    """
    reader, rng = ShardReader(loaded.run.tokens_of(EPISODES, split)), keyed_generator("moments", seed)
    moments: list[WorldState] = []
    for number in rng.integers(len(reader), size=count).tolist():
        episode = decode_tokenised(*reader.read(number))
        if episode.num_frames > 1:
            at = int(rng.integers(1, episode.num_frames))
            moments.append(WorldState(episode.mission, episode.frames[:at], episode.actions[: at - 1]).recent(frames))
    if not moments:
        raise ValueError(f"{reader.folder} has no episode with a step")
    return moments


class Starts:
    """The episodes of one split of a run.

    Raises FileNotFoundError when the split was not recorded or not tokenised, ValueError when it is empty.
    """

    def __init__(self, loaded: LoadedRun, split: Split, frames: int = 1) -> None:
        self._frames = frames
        self._recorded = ShardReader(join(loaded.config.data.folder, split))
        self._tokens = ShardReader(loaded.run.tokens_of(EPISODES, split))
        if not len(self._tokens):
            raise ValueError(f"{self._tokens.folder} has no episode that a world could begin with")
        self.action_names: tuple[str, ...] = tuple(self._recorded.metadata["action_names"])

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, number: int) -> Start:
        """Raises ValueError for an episode that there is not."""
        if not 0 <= number < len(self):
            raise ValueError(f"episode {number} does not exist: there are 0 to {len(self) - 1}")
        episode = decode_tokenised(*self._tokens.read(number))
        about = decode_about(*self._recorded.read(number))
        frames = min(self._frames, episode.num_frames)
        state = WorldState(episode.mission, episode.frames[:frames], episode.actions[: frames - 1])
        return Start(state, about["mission"], about["environment"], about["seed"], about["view_cells"])
