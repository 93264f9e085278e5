"""What there is to say of worlds, told from their files."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from data_pipelines.sources.episode import UNKNOWN_ACTION
from unimodel.memory.writer_lock import lock_holder
from unimodel.run_folder import RunFolder
from unimodel.world.sessions.catalogue import files_bytes, read_world, require_run, world_names
from unimodel.world.sessions.log import LOCK_FILE, LOG_FILE, Entry, LogRead
from unimodel.world.sessions.past import NOBODY, Past

MEMORY_FOLDER = "memory"
_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60))


def describe(run: RunFolder, name: str) -> list[tuple[str, str]]:
    """A world, in words. Raises FileNotFoundError when there is none, ValueError when it is damaged."""
    folder, read = read_world(run, name)
    past = Past.of(read.require_whole(folder / LOG_FILE))
    assert past.last is not None
    birth = past.birth
    acts = Counter(act.agent for tick in past.ticks for act in tick.acts if act.action != UNKNOWN_ACTION)
    here = [f"{agent}{_seat(past, agent)} since tick {tick}" for agent, tick in past.here.items()]
    done = [f"{agent or 'nobody'} {count:,}" for agent, count in acts.most_common()]
    texts = [deed.value["text"] for deed in past.coming]
    moments = [f"{tag} (tick {tick})" for tag, tick in past.tags.items()]
    opened = sum(entry.deed.kind == "open" for entry in past.notable)
    lines = [
        ("world", f"{folder}"),
        ("tick", f"{past.tick:,}"),
        ("age", f"{_duration(time.time() - past.born_at)}; last lived {_duration(time.time() - past.last.time)} ago"),
        ("lived by", f"{past.lived_by}"),
        ("began", f"{_origin(past)}, seed {birth.seed}"),
        *([("agents", ", ".join(map(birth.seat_name, range(birth.num_agents))))] if birth.agents else []),
        ("mission", past.mission(past.tick)[0] or "none"),
        ("coming", "; ".join(texts) or "nothing was said to happen next"),
        ("here", _who(folder, here)),
        ("acts", ", ".join(done) or "none"),
        ("moments", ", ".join(moments) or "none has a name"),
        ("opened", f"{opened} times"),
        ("log", f"{files_bytes(folder):,} bytes"),
        ("memory", f"{memory_bytes(folder):,} bytes beside the log"),
    ]
    return lines


def lines(run: RunFolder) -> list[tuple[str, str, str, str, str]]:
    """Name, ticks, when it was last lived, bytes and state of each world. Raises FileNotFoundError when there is no
    such run."""
    require_run(run)
    return [_line(run, name) for name in world_names(run)]


def log_lines(run: RunFolder, name: str, *, with_frames: bool) -> Iterator[str]:
    """A line of JSON for each entry; those before a damage, then ValueError."""
    folder, read = read_world(run, name)
    for entry in read.entries:
        yield json.dumps(_as_json(entry, with_frames), ensure_ascii=False)
    read.require_whole(folder / LOG_FILE)


def memory_bytes(folder: Path) -> int:
    """What the memories beside the log in `folder` take."""
    return sum(file.stat().st_size for file in (folder / MEMORY_FOLDER).glob("*.safetensors"))


def _as_json(entry: Entry, with_frames: bool) -> dict[str, object]:
    deed = entry.deed
    values: dict[str, object] = {
        "number": entry.number,
        "time": datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="milliseconds"),
        "tick": deed.tick,
        "kind": deed.kind,
    }
    if deed.agent != NOBODY:
        values["agent"] = deed.agent
    if deed.action is not None:
        values["action"] = deed.action
    values |= deed.value
    if deed.codes:
        values["frame"] = hashlib.sha256(deed.codes).hexdigest()[:16]
        if with_frames:
            values["codes"] = np.frombuffer(deed.codes, dtype="<i4").tolist()
    return values


def _line(run: RunFolder, name: str) -> tuple[str, str, str, str, str]:
    try:
        folder, read = read_world(run, name)
    except FileNotFoundError:
        return name, "", "", "", "damaged: it has no log"
    holder = lock_holder(folder / LOCK_FILE)
    state = f"damaged: {read.damage}" if read.damage else f"process {holder} lives it" if holder else ""
    ticks, last = _how_far(read)
    return name, ticks, last, f"{files_bytes(folder) + memory_bytes(folder):,}", state


def _how_far(read: LogRead) -> tuple[str, str]:
    if not read.entries:
        return "", ""
    past = Past.of(read.entries)
    assert past.last is not None
    return f"{past.tick:,}", f"{_duration(time.time() - past.last.time)} ago"


def _seat(past: Past, agent: str) -> str:
    if not past.birth.agents:
        return ""
    return f", {past.birth.seat_name(past.seats[agent])}," if agent in past.seats else ", who looks on,"


def _who(folder: Path, here: list[str]) -> str:
    holder = lock_holder(folder / LOCK_FILE)
    if holder is None:
        return "nobody: no process lives it"
    return f"{', '.join(here) or 'nobody'} (process {holder} lives it)"


def _origin(past: Past) -> str:
    birth = past.birth
    own = f"episode {birth.episode} of {birth.split}" + (f" ({birth.environment})" if birth.environment else "")
    branches = [entry for entry in past.notable if entry.deed.kind == "branch"]
    if not branches:
        return own
    branch = branches[-1].deed
    return f"a branch of '{branch.value['of']}' at tick {branch.tick}, which began with {own}"


def _duration(seconds: float) -> str:
    for unit, size in _UNITS:
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{max(0, int(seconds))} s"
