"""What all agents of a shared world do in its next step: it takes an action of each at once.

Whoever is an agent has keys of their own. Each does what they have pressed, or hold; who has pressed nothing does what
does nothing, where the world has such an action. Else nobody knows what they do, as of an agent that nobody is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from data_pipelines.sources.episode import UNKNOWN_ACTION
from unimodel.world.play.clock import Beat, Clock, Due
from unimodel.world.play.controls import Controls
from unimodel.world.sessions.living import Act
from unimodel.world.sessions.past import NOBODY


@dataclass(frozen=True, slots=True)
class Round:
    """A step that is due, with an act of each agent. The first of its keys was that of `agent`."""

    acts: tuple[Act, ...]
    agent: str | None
    pressed_at: float | None


class Rounds:
    """Of one world of so many agents: what `Turns` is to a world of one. Times are seconds; nothing here reads the
    time."""

    def __init__(self, controls: Controls, period_seconds: float, num_agents: int) -> None:
        self._controls, self._period_seconds, self._num_agents = controls, period_seconds, num_agents
        self._seats: dict[str, int] = {}
        self._clocks: dict[str, Clock] = {}
        self._beat = Beat(period_seconds)

    def settle(self, seats: Mapping[str, int]) -> None:
        """These are here now, each as one of the agents; who goes takes their keys along."""
        self._seats = dict(seats)
        self._clocks = {who: self._clocks.get(who) or Clock(self._controls, self._period_seconds) for who in seats}

    def __contains__(self, agent: str) -> bool:
        """Whether somebody is an agent, and has keys."""
        return agent in self._clocks

    def of(self, agent: str) -> Clock:
        """Somebody's keys. Raises KeyError for one who is no agent."""
        return self._clocks[agent]

    def release_all(self) -> None:
        """All keys of all come up."""
        for clock in self._clocks.values():
            clock.release_all()

    def take(self, now: float, *, ticking: bool) -> Round | float | None:
        """The step that is due, which is then taken; or in how many seconds to ask again; or None: when something is
        pressed. `ticking` says that time goes on by itself, which it does not where nobody is, nor where every action
        does something and nobody acts: nobody's action is known then, and that is another thing than idling."""
        if ticking and now < self._beat.next_tick:
            return self._beat.next_tick - now
        if not self._clocks:
            return None
        if ticking:
            wanted = {who: clock.take_wanted(now) for who, clock in self._clocks.items()}
            dues = {who: due for who, due in wanted.items() if due is not None}
            return self._round(dues, now) if dues or self._controls.idle is not None else None
        asked = {who: clock.take(now, ticking=False) for who, clock in self._clocks.items()}
        dues = {who: due for who, due in asked.items() if isinstance(due, Due)}
        if not dues:
            return min((due for due in asked.values() if isinstance(due, float)), default=None)
        along = {who: self._clocks[who].take_along(now) for who in self._clocks if who not in dues}
        return self._round(dues | {who: due for who, due in along.items() if due is not None}, now)

    def _round(self, dues: Mapping[str, Due], now: float) -> Round:
        self._beat.strike(now)
        acts = [Act(NOBODY, UNKNOWN_ACTION)] * self._num_agents
        nothing = UNKNOWN_ACTION if self._controls.idle is None else self._controls.idle
        for who, seat in self._seats.items():
            acts[seat] = Act(who, dues[who].action if who in dues else nothing)
        pressed = [(due.pressed_at, who) for who, due in dues.items() if due.pressed_at is not None]
        pressed_at, agent = min(pressed, default=(None, None))
        return Round(tuple(acts), agent, pressed_at)
