"""When the next step of a world is due, and with which action.

The server owns the clock. Inputs are not queued: of the keys pressed since the last step the newest counts, and what
is held down counts at every tick. Nothing here reads the time; it is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from unimodel.world.play.controls import Controls

REPEAT_AFTER_SECONDS = 0.4
"""A key that is held while time stands still repeats after so long, at the clock's rate."""


@dataclass(frozen=True, slots=True)
class Due:
    """A step that is due now. `pressed_at` is when its key went down, if a key began it."""

    action: int
    pressed_at: float | None


@dataclass(slots=True)
class Beat:
    """When the next tick is due: a period after the last one. Ticks that were missed are not made up for."""

    period_seconds: float
    next_tick: float = 0.0

    def strike(self, now: float) -> None:
        """A tick is taken."""
        on_time = self.next_tick + self.period_seconds
        self.next_tick = on_time if on_time > now else now + self.period_seconds


@dataclass(slots=True)
class Clock:
    """Of one world. Times are seconds."""

    controls: Controls
    period_seconds: float
    _held: dict[int, float] = field(default_factory=dict)
    """Action -> when it went down; the newest last."""
    _fresh: bool = False
    """A key went down since the last step."""
    _chord: list[int] = field(default_factory=list)
    """What was down at that moment: a key that came up before its tick counts all the same."""
    _pressed_at: float | None = None
    _step_asked: bool = False
    _beat: Beat = field(init=False)

    def __post_init__(self) -> None:
        self._beat = Beat(self.period_seconds)

    def press(self, action: int, now: float) -> None:
        """A key goes down; one that is down already stays so."""
        if action in self._held:
            return
        self._held[action] = now
        self._fresh, self._chord, self._pressed_at = True, list(self._held), now

    def release(self, action: int) -> None:
        """A key comes up."""
        self._held.pop(action, None)

    def release_all(self) -> None:
        """All keys come up, and what was pressed and has not been used is forgotten."""
        self._held.clear()
        self._fresh, self._step_asked = False, False

    def ask_step(self) -> None:
        """One step, whatever is held."""
        self._step_asked = True

    def take(self, now: float, *, ticking: bool) -> Due | float | None:
        """The step that is due, which is then taken; or in how many seconds to ask again; or None: when something is
        pressed. `ticking` says that time goes on by itself."""
        if ticking:
            if now < self._beat.next_tick:
                return self._beat.next_tick - now
            due, idle = self.take_wanted(now), self.controls.idle
            return due or (None if idle is None else self._taken(idle, now))
        if self._fresh:
            action = self.controls.chosen(self._chord)
            assert action is not None
            return self._taken(action, now)
        held = self.controls.chosen(list(self._held))
        if self._step_asked:
            action = self.controls.idle if held is None else held
            self._step_asked = False
            return None if action is None else self._taken(action, now)
        if held is None:
            return None
        repeat = max(max(self._held.values()) + REPEAT_AFTER_SECONDS, self._beat.next_tick)
        return repeat - now if now < repeat else self._taken(held, now)

    def take_wanted(self, now: float) -> Due | None:
        """A step with what is held, or was pressed since the last one, if anything is."""
        action = self.controls.chosen(self._chord if self._fresh else list(self._held))
        return None if action is None else self._taken(action, now)

    def take_along(self, now: float) -> Due | None:
        """In a step that somebody else's key began while time stands still: what was pressed, or is held for so long
        that it repeats."""
        repeats = bool(self._held) and now >= max(self._held.values()) + REPEAT_AFTER_SECONDS
        return self.take_wanted(now) if self._fresh or repeats else None

    def _taken(self, action: int, now: float) -> Due:
        due = Due(action, self._pressed_at if self._fresh else None)
        self._fresh, self._step_asked = False, False
        self._beat.strike(now)
        return due
