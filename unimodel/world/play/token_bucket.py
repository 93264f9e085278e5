"""How fast a client may talk."""

from __future__ import annotations

from dataclasses import dataclass


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
