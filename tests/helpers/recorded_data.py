"""What the tests of recorded data share: small settings, episodes, a folder's bytes, a flipped byte."""

from __future__ import annotations

from pathlib import Path

from data_pipelines.sources.episode import Episode
from data_pipelines.sources.play import Rules, play_episodes
from data_pipelines.sources.policies import load_players, scripted_policy
from data_pipelines.sources.recording import Recording

ENVIRONMENT = "BabyAI-GoToLocalS8N3-v0"


def small_recording(**changes: object) -> Recording:
    settings: dict[str, object] = {
        "seed": 3,
        "environment": ENVIRONMENT,
        "train_episodes": 10,
        "validation_episodes": 4,
        "test_episodes": 2,
        "max_steps": 6,
        "policies": [{"kind": "bot", "share": 1.0, "random_action_fraction": 0.6}],
        "image_size": 64,
        "episodes_per_shard": 4,
    }
    return Recording(**(settings | changes))  # pyright: ignore[reportArgumentType]


def played(
    environment: str,
    *seeds: int,
    max_steps: int = 8,
    image_size: int = 64,
    event_fraction: float = 0.0,
    view_cells: int | None = None,
    kind: str = "sticky",
    **policy: object,
) -> list[Episode]:
    """The episodes of these seeds."""
    players = load_players([{"kind": kind, **policy}], scripted_policy)
    return list(play_episodes(environment, seeds, players, Rules(max_steps, image_size, event_fraction, view_cells)))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`, hidden ones included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def flip(path: Path, offset: int) -> None:
    """Changes one bit of the byte at `offset`."""
    with path.open("r+b") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ 4]))
