"""Whose action the next step of a shared world takes: it takes one, and several may want to act.

Each agent has keys of its own. Of those that want something, whoever has waited longest acts; what the others have
pressed stays for the next step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from unimodel.world.play.clock import Beat, Clock, Due
from unimodel.world.play.controls import Controls
from unimodel.world.sessions.living import Act
from unimodel.world.sessions.past import NOBODY


@dataclass(frozen=True, slots=True)
class Turn:
    """A step that is due, by an agent or by nobody."""

    agent: str | None
    due: Due

    @property
    def acts(self) -> tuple[Act, ...]:
        """What the world takes."""
        return (Act(self.agent or NOBODY, self.due.action),)

    @property
    def pressed_at(self) -> float | None:
        """When the key went down that it answers, if one began it."""
        return self.due.pressed_at


class Turns:
    """Of one world. Times are seconds; nothing here reads the time."""

    def __init__(self, controls: Controls, period_seconds: float) -> None:
        self._controls, self._period_seconds = controls, period_seconds
        self._clocks: dict[str, Clock] = {}
        """Whoever has waited longest comes first."""
        self._beat = Beat(period_seconds)

    def join(self, agent: str) -> None:
        """One more, who acts before the others."""
        self._clocks = {agent: Clock(self._controls, self._period_seconds), **self._clocks}

    def leave(self, agent: str) -> None:
        """With the keys that it held."""
        self._clocks.pop(agent, None)

    def settle(self, agents: Iterable[str]) -> None:
        """These are here now."""
        here = list(agents)
        for gone in [agent for agent in self._clocks if agent not in here]:
            self.leave(gone)
        for new in [agent for agent in here if agent not in self._clocks]:
            self.join(new)

    def __contains__(self, agent: str) -> bool:
        """Whether somebody is there, and has keys."""
        return agent in self._clocks

    def of(self, agent: str) -> Clock:
        """The keys of an agent. Raises KeyError for one that is not there."""
        return self._clocks[agent]

    def release_all(self) -> None:
        """All keys of all agents come up."""
        for clock in self._clocks.values():
            clock.release_all()

    def take(self, now: float, *, ticking: bool) -> Turn | float | None:
        """The step that is due, which is then taken; or in how many seconds to ask again; or None: when something is
        pressed. `ticking` says that time goes on by itself."""
        if ticking and now < self._beat.next_tick:
            return self._beat.next_tick - now
        waits: list[float] = []
        for agent, clock in self._clocks.items():
            due = clock.take_wanted(now) if ticking else clock.take(now, ticking=False)
            if isinstance(due, Due):
                self._clocks[agent] = self._clocks.pop(agent)  # behind the others
                return self._taken(Turn(agent, due), now)
            waits += [due] if due is not None else []
        idle = self._controls.idle
        if ticking and idle is not None:
            return self._taken(Turn(None, Due(idle, None)), now)
        return min(waits, default=None)

    def _taken(self, turn: Turn, now: float) -> Turn:
        self._beat.strike(now)
        return turn
