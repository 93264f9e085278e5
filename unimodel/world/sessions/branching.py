"""A world beside another, with the same past up to some tick."""

from __future__ import annotations

from unimodel.run_folder import RunFolder
from unimodel.world.sessions.catalogue import new_world, require_world
from unimodel.world.sessions.log import LOG_FILE, Deed, WorldLog, read_log
from unimodel.world.sessions.past import Past, holding
from unimodel.world.sessions.snapshots import copy_newest


def branch_world(run: RunFolder, name: str, new: str, tick: int | None = None) -> int:
    """Makes a world `new` with the past of `name` up to `tick`, or its last one, and returns that tick. From then on
    the two share nothing. Of a damaged log, a `tick` before the damage serves.

    Raises FileNotFoundError when there is no such world, ValueError for a tick that it has not (or no more), a damaged
    log and a name that is taken, OSError.
    """
    folder = require_world(run, name)
    read = read_log(folder)
    if tick is None or not read.entries:
        read.require_whole(folder / LOG_FILE)
    past = Past.of(read.entries)
    tick = past.tick if tick is None else tick
    past.at(tick)
    kept = [(entry.deed, entry.time) for entry in holding(read.entries, tick)]
    origin = Deed("branch", tick, value={"of": name, "from": past.tick})
    with new_world(run, new) as hidden:
        WorldLog.create(hidden, [*kept, (origin, None)])
        copy_newest(folder, past, hidden, Past.of(read_log(hidden).entries))
    return tick
