"""What may happen in a MiniGrid world because a sentence says so: things appear, vanish and turn another colour, doors
open and close.

    a red ball appears ahead            two cells ahead, on the left, on the right
    the blue key vanishes               the blue key at c5 vanishes, where there are several
    the green box turns grey
    the yellow door opens               the yellow door closes

One function makes a sentence come true, whether the recorder drew it, a recording is replayed or somebody typed it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from string import ascii_lowercase

from minigrid.core.constants import COLOR_NAMES
from minigrid.core.world_object import Ball, Box, Door, Key, WorldObj
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.envs.babyai.core.verifier import Instr, ObjDesc
from minigrid.minigrid_env import MiniGridEnv

THINGS: dict[str, type[Ball] | type[Box] | type[Key]] = {"ball": Ball, "box": Box, "key": Key}
PLACES = {"ahead": (1, 0), "two cells ahead": (2, 0), "on the left": (0, -1), "on the right": (0, 1)}
"""Cells (forward, to the right) of the agent."""
APPEARS = re.compile(rf"a (\w+) ({'|'.join(THINGS)}) appears ({'|'.join(PLACES)})")
CHANGES = re.compile(rf"the (\w+) ({'|'.join(THINGS)}|door)(?: at ([a-z]+\d+))? (vanishes|opens|closes|turns (\w+))")

Cell = tuple[int, int]


def make_happen(env: MiniGridEnv, text: str) -> None:
    """Changes the world as `text` says. Raises ValueError when it says nothing known or nothing that can happen."""
    sentence = " ".join(text.lower().split()).rstrip(".")
    if match := APPEARS.fullmatch(sentence):
        colour, thing, place = match.groups()
        _appear(env, _colour(colour), thing, place)
    elif match := CHANGES.fullmatch(sentence):
        colour, thing, where, change, new_colour = match.groups()
        cell, found = _find(env, _colour(colour), thing, where)
        _change(env, cell, found, change, new_colour)
    else:
        raise ValueError(
            f"'{text}' cannot happen here. What can: a red ball appears ahead; the blue key vanishes; the green box "
            "turns grey; the yellow door opens"
        )
    if isinstance(env, RoomGridLevel):
        env.update_objs_poss()  # its missions know where things are


def possible_events(env: MiniGridEnv, in_sight: Collection[Cell] | None = None) -> list[list[str]]:
    """Sentences that can come true now, by what they do; none about what the mission asks for or needs, and none about
    what is not `in_sight` (None: everything is)."""
    appear, vanish, turn, doors = [], [], [], []
    for place in PLACES:
        if _is_free(env, _cell_at(env, place)):
            kinds = [(colour, thing) for colour in COLOR_NAMES for thing in THINGS]
            appear += [f"a {c} {t} appears {place}" for c, t in kinds if not _is_asked_for(env, c, t)]
    for cell, found in _objects(env):
        if in_sight is not None and cell not in in_sight:
            continue
        if _is_asked_for(env, found.color, found.type) or getattr(found, "contains", None) is not None:
            continue
        name = _name(env, cell, found)
        if isinstance(found, Door):
            if not (found.is_locked or cell == _agent(env)):
                doors.append(f"{name} {'closes' if found.is_open else 'opens'}")
            continue
        vanish.append(f"{name} vanishes")
        colours = [c for c in COLOR_NAMES if c != found.color and not _is_asked_for(env, c, found.type)]
        turn += [f"{name} turns {colour}" for colour in colours]
    return [group for group in (appear, vanish, turn, doors) if group]


def cell_name(x: int, y: int) -> str:
    """Column letter and row number from 0, as on a chess board: one word per place is one token per place."""
    letters = ascii_lowercase[x] if x < 26 else ascii_lowercase[x // 26 - 1] + ascii_lowercase[x % 26]
    return f"{letters}{y}"


def _appear(env: MiniGridEnv, colour: str, thing: str, place: str) -> None:
    cell = _cell_at(env, place)
    if not _is_free(env, cell):
        raise ValueError(f"nothing can appear {place}: there is no free cell")
    env.put_obj(THINGS[thing](colour), *cell)


def _change(env: MiniGridEnv, cell: Cell, found: WorldObj, change: str, new_colour: str | None) -> None:
    if isinstance(found, Door) != (change in ("opens", "closes")):
        raise ValueError(f"{_name(env, cell, found)}: doors open and close, other things vanish or turn another colour")
    if isinstance(found, Door):
        if found.is_locked:
            raise ValueError(f"{_name(env, cell, found)} is locked")
        if cell == _agent(env):
            raise ValueError(f"{_name(env, cell, found)}: the agent stands in it")
        found.is_open = change == "opens"
    elif new_colour is None:
        env.grid.set(*cell, None)
    else:
        found.color = _colour(new_colour)


def _find(env: MiniGridEnv, colour: str, thing: str, where: str | None) -> tuple[Cell, WorldObj]:
    """The one thing that is meant."""
    found = [(cell, one) for cell, one in _objects(env) if (one.color, one.type) == (colour, thing)]
    there = [(cell, one) for cell, one in found if where in (None, cell_name(*cell))]
    if not there:
        raise ValueError(f"there is no {colour} {thing}{f' at {where}' if where else ''} to be seen")
    if len(there) > 1:
        places = " or ".join(f"at {cell_name(*cell)}" for cell, _ in there)
        raise ValueError(f"there are {len(there)} of {colour} {thing}: say {places}")
    return there[0]


def _name(env: MiniGridEnv, cell: Cell, found: WorldObj) -> str:
    """How a sentence calls it: with its place where another looks the same."""
    alike = [one for _, one in _objects(env) if (one.color, one.type) == (found.color, found.type)]
    return f"the {found.color} {found.type}" + (f" at {cell_name(*cell)}" if len(alike) > 1 else "")


def _objects(env: MiniGridEnv) -> Iterator[tuple[Cell, WorldObj]]:
    """What sentences can be about, in reading order."""
    for index, found in enumerate(env.grid.grid):
        if found is not None and found.type in (*THINGS, "door"):
            y, x = divmod(index, env.width)
            yield (x, y), found


def _is_asked_for(env: MiniGridEnv, colour: str, thing: str) -> bool:
    """Whether the mission is about such things, or such a key opens a door: the mission stays what it was."""
    doors = [found for _, found in _objects(env) if isinstance(found, Door) and found.is_locked]
    if thing == "key" and any(door.color == colour for door in doors):
        return True
    if not isinstance(env, RoomGridLevel):
        return thing in env.mission
    instruction: Instr = env.instrs  # pyright: ignore[reportAttributeAccessIssue] - set by every level
    return any(one.type in (None, thing) and one.color in (None, colour) for one in _descriptions(instruction))


def _descriptions(instruction: Instr) -> Iterator[ObjDesc]:
    for value in vars(instruction).values():
        if isinstance(value, ObjDesc):
            yield value
        elif isinstance(value, Instr):
            yield from _descriptions(value)


def _cell_at(env: MiniGridEnv, place: str) -> Cell:
    forward, right = PLACES[place]
    x, y = env.agent_pos + forward * env.dir_vec + right * env.right_vec
    return int(x), int(y)


def _is_free(env: MiniGridEnv, cell: Cell) -> bool:
    x, y = cell
    return 0 <= x < env.width and 0 <= y < env.height and env.grid.get(x, y) is None and cell != _agent(env)


def _agent(env: MiniGridEnv) -> Cell:
    return int(env.agent_pos[0]), int(env.agent_pos[1])


def _colour(word: str) -> str:
    if word not in COLOR_NAMES:
        raise ValueError(f"there is no colour {word} here, only {', '.join(COLOR_NAMES)}")
    return word
