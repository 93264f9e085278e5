"""Where clients are, and who lets them in: what a hub knows of the worlds behind it."""

from __future__ import annotations

from typing import Protocol

from unimodel.world.play.outbox import Outbox
from unimodel.world.play.protocol import ClientMessage, Hello
from unimodel.world.play.settings import PlaySettings


class Refused(ValueError):
    """A wish that is not granted; `code` is for programs."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Place(Protocol):
    """A world, and who is in it."""

    async def leave(self, outbox: Outbox) -> None:
        """Somebody goes."""
        ...

    async def serve(self, outbox: Outbox, message: ClientMessage) -> None:
        """Grants a wish. Raises ValueError for one that cannot be granted, OSError."""
        ...

    def acknowledge(self, outbox: Outbox, frame: int) -> None:
        """A frame is on somebody's screen."""
        ...

    def idle_seconds(self, outbox: Outbox, now: float) -> float:
        """Since somebody last wished for something."""
        ...


class Lobby(Protocol):
    """All worlds of a server."""

    @property
    def settings(self) -> PlaySettings: ...

    async def open(self) -> None:
        """Nobody has come yet."""
        ...

    async def admit(self, outbox: Outbox, hello: Hello, place: Place | None) -> Place | None:
        """Lets somebody in, who is in `place` already or nowhere, and tells them what is here; None when they must say
        first what they want."""
        ...

    async def sweep(self, now: float) -> None:
        """Looks for those who are silent or gone."""
        ...

    async def close(self) -> None:
        """Ends all worlds."""
        ...
