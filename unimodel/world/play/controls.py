"""What the actions of a world mean to a person: which key is which, which two together are a third, which does nothing.

All of it follows from the names of the actions; a world whose names say nothing is played with digits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

IDLE_NAMES = ("noop", "no_op", "nop", "idle", "wait", "stay", "done")
"""Actions that do nothing, the surest first. MiniGrid's `done` only says that the agent thinks it is."""
USUAL_KEYS = {
    "ArrowLeft": ("left", "move_left", "turn_left", "west"),
    "ArrowRight": ("right", "move_right", "turn_right", "east"),
    "ArrowUp": ("up", "forward", "move_up", "move_forward", "north"),
    "ArrowDown": ("down", "backward", "back", "move_down", "move_back", "south"),
    "Space": ("fire", "toggle", "do", "use", "interact", "jump"),
    "Enter": ("done",),
    "Period": ("noop", "no_op", "nop", "idle", "wait", "stay"),
}
CHORD = re.compile(r"(up|down)?(left|right)?(fire)?")
"""How Atari names its combined actions: `uprightfire`."""


@dataclass(frozen=True, slots=True)
class Controls:
    """The actions 0, 1, ... of a world.

    keys   a `KeyboardEvent.code` for every action; None for a chord, and when the keyboard is used up
    idle   the action that does nothing, if there is one
    """

    names: tuple[str, ...]
    keys: tuple[str | None, ...]
    idle: int | None
    _parts: tuple[frozenset[str], ...]
    """What an action is made of: one part for a plain one, several for a chord, none for what has no parts."""

    @staticmethod
    def of(names: Sequence[str]) -> Controls:
        """The controls of actions with these names."""
        lower = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in names]
        parts = tuple(_parts(name, lower) for name in lower)
        idle = next((lower.index(name) for name in IDLE_NAMES if name in lower), None)
        return Controls(tuple(names), tuple(_default_keys(lower, parts)), idle, parts)

    def chosen(self, held: Sequence[int]) -> int | None:
        """The action of the keys that are down, the newest last: a chord where one is meant, else the newest."""
        if not held:
            return None
        together, action = self._parts[held[-1]], held[-1]
        for older in reversed(held[:-1]):
            wanted = together | self._parts[older]
            if together and wanted != together and wanted in self._parts:
                together, action = wanted, self._parts.index(wanted)
        return action

    def is_chord(self, action: int) -> bool:
        """Whether it is played with the keys of others."""
        return len(self._parts[action]) > 1


def _parts(name: str, names: Sequence[str]) -> frozenset[str]:
    """Of a chord all of whose parts are actions too, or of such a part."""
    match = CHORD.fullmatch(name)
    parts = frozenset(part for part in match.groups() if part) if match else frozenset()
    return parts if all(part in names for part in parts) else frozenset()


def _default_keys(names: Sequence[str], parts: Sequence[frozenset[str]]) -> list[str | None]:
    """Usual keys for usual names, then a digit for a number, then the first free letter of the name, then any."""
    keys: list[str | None] = [None] * len(names)
    plain = [i for i in range(len(names)) if len(parts[i]) < 2]
    for key, usual in USUAL_KEYS.items():
        match = next((i for name in usual for i in plain if names[i] == name and keys[i] is None), None)
        if match is not None:
            keys[match] = key
    for i in plain:
        if keys[i] is None:
            free = (key for key in _candidates(names[i]) if key not in keys)
            keys[i] = next(free, None)
    return keys


def _candidates(name: str) -> list[str]:
    number = re.fullmatch(r".*?(\d)", name)
    letters = [f"Key{letter.upper()}" for letter in name if letter.isascii() and letter.isalpha()]
    spare = [f"Digit{digit}" for digit in "1234567890"] + [f"Key{letter}" for letter in "QWERTYUIOPASDFGHJKLZXCVBNM"]
    return ([f"Digit{number.group(1)}"] if number else letters) + spare
