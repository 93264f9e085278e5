"""How a server lets worlds be played, and what it bears from a client: how much it may say, how fast, for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one server."""

    max_clients: int = 8
    """Open connections, those that watch included."""
    message_bytes: int = 4096
    """A longer message ends the connection."""
    messages_per_second: float = 100.0
    """Of one client, over a longer time; acknowledged frames count."""
    burst_messages: float = 200.0
    """At once."""
    patience_messages: int = 200
    """Messages beyond the rate that are answered with an error; then the connection ends."""
    frames_in_flight: int = 3
    """Frames that a client need not have acknowledged before the next is sent."""
    hello_seconds: float = 10.0
    """From opening a connection to a first message with the right token."""
    silence_seconds: float = 5.0
    """A client that leaves frames unacknowledged for so long finds its world paused."""
    idle_pause_seconds: float = 120.0
    """Without a key a world that moves on its own is paused,"""
    idle_close_seconds: float = 1800.0
    """and later the connection is closed."""
    keep_seconds: float = 300.0
    """How long a world waits, paused, for a client that has gone; so a page may be loaded again."""
    sweep_seconds: float = 0.5
    """How often the server looks for those who are silent, idle or gone."""
    max_moments: int = 10_000
    """Frames of one world, over all branches."""
    max_branches: int = 24


@dataclass(frozen=True, slots=True)
class PlaySettings:
    """How worlds are played."""

    fps: float = 10.0
    """Steps a second of a world that moves on its own."""
    passes: int = 4
    """Refinement passes of a frame; fewer where the clock leaves no time for them."""
    limits: Limits = Limits()
    compiled: bool = False
    """Frames are made by a compiled model, on a GPU by CUDA graphs."""

    @property
    def compiled_for(self) -> int:
        """Open worlds, without compiling 0."""
        return self.limits.max_clients if self.compiled else 0

    def __post_init__(self) -> None:
        if not 0.2 <= self.fps <= 60:
            raise ValueError(f"--fps {self.fps} must lie between 0.2 and 60")
        if not 1 <= self.passes <= 64:
            raise ValueError(f"--passes {self.passes} must lie between 1 and 64")
