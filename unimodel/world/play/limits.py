"""What a client may do to the server: how much it may say, how fast, for how long, and how much of it is kept."""

from __future__ import annotations

from dataclasses import dataclass

from data_pipelines.settings import Settings


class Limits(Settings):
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


@dataclass(slots=True)
class TokenBucket:
    """`rate` messages a second, `burst` at once; time is told by the caller, in seconds."""

    rate: float
    burst: float
    left: float
    at: float

    @staticmethod
    def full(rate: float, burst: float, now: float) -> TokenBucket:
        """A bucket that nobody has taken from."""
        return TokenBucket(rate, burst, burst, now)

    def take(self, now: float) -> bool:
        """Whether one more message is within the rate; takes it if so."""
        self.left = min(self.burst, self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True
