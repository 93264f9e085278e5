"""Settings of the data: which worlds are recorded, and what else a run learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, PlainValidator, PositiveInt

from data_pipelines.settings import Fraction, Settings, ViewCells
from data_pipelines.shards.storage import Folder, as_folder, local_folder
from data_pipelines.sources.policy_settings import AnyPolicy, BotPolicy

EPISODES = "episodes"
"""Name of the source that `data.folder` is."""
DataFolder = Annotated[Folder, PlainValidator(as_folder, json_schema_input_type=str)]
"""A local folder as a Path, an address as text: Path would take a slash out of it."""


class RecordingConfig(Settings):
    """Episodes recorded from a gymnasium environment (`unimodel data record`)."""

    environment: str = "BabyAI-GoToLocalS8N3-v0"
    """A gymnasium id with discrete actions: MiniGrid, BabyAI, Atari with its sound (`ALE/Pong-v5`), or any other
    (`CartPole-v1`, `miniworld:MiniWorld-FourRooms-v0`). Or a world of several agents
    (`society:data_pipelines.sources.orchard?agents=2`)."""
    train_episodes: PositiveInt = 4000
    validation_episodes: PositiveInt = 100
    """Held out for choosing settings: seeds that training never sees."""
    test_episodes: PositiveInt = 100
    """Held out for the figures that are told to others: looked at once the settings stand."""
    max_steps: PositiveInt = 16
    """Longest episode, in environment steps."""
    policies: Annotated[tuple[AnyPolicy, ...], Field(min_length=1)] = (BotPolicy(kind="bot"),)
    """Who plays, and what share of the episodes; only BabyAI levels have a bot."""
    event_fraction: Fraction = 0.0
    """Share of episodes in which something happens by a text that says so, at any of the max_steps steps unless the
    episode is over by then (MiniGrid, BabyAI: things appear, vanish, turn another colour, doors open and close)."""
    image_size: PositiveInt = 64
    """Height and width of a frame, pixels. The grid is drawn with image_size / grid cells pixels per cell."""
    view_cells: ViewCells | None = None
    """What is to be seen of MiniGrid, BabyAI, `rooms` and `balls`: so many cells a side before the agent, drawn with
    image_size / view_cells pixels per cell (7 cells: 56 or 112 pixels). Left out, MiniGrid is seen whole from above."""
    episodes_per_shard: PositiveInt = 250


class SourceConfig(Settings):
    """Another data set: what `unimodel data build` wrote, plain WebDataset shards, or episodes recorded."""

    folder: DataFolder
    """A folder of shards, or of their splits, or the address of one. Without splits all of it is for training."""
    image_size: PositiveInt = 64
    """Pictures are scaled to cover a square of so many pixels, and what sticks out is cut off."""
    tokenizer_samples: NonNegativeInt = 1000
    """Samples that the tokenizers are fitted to; 0 where other sources show and say all that there is in this one."""
    recording: RecordingConfig | None = None
    """What `unimodel data record` plays into the folder, if anything."""


class DataConfig(Settings):
    folder: DataFolder
    """The recorded episodes that the run is evaluated on: `train/`, `validation/` and `test/`, shards and index. A
    local folder, or an address that is only read (s3://bucket/folder, https://host/folder, hf://datasets/owner/name)."""
    recording: RecordingConfig = RecordingConfig()
    sources: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")], SourceConfig] = {}
    """More data by the name under which a mixture asks for it."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes per rank that read and build batches ahead; 0 does it between steps."""
    max_bad_samples: Annotated[int, Field(ge=0)] = 100
    """Unreadable samples that a run leaves out (listed in quarantine.jsonl) before it stops."""


def recordings(data: DataConfig) -> dict[Path, RecordingConfig]:
    """What is played into which folder. Raises ValueError for an address."""
    others = {local_folder(s.folder): s.recording for s in data.sources.values() if s.recording is not None}
    return {local_folder(data.folder): data.recording} | others
