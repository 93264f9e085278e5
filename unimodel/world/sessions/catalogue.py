"""The worlds of a run, by name: all that can be done with their files alone, without a model."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np

from unimodel.memory.writer_lock import WriterLock
from unimodel.run_folder import RunFolder, sync_folder
from unimodel.world.sessions.log import HEAD_FILE, LOCK_FILE, LOG_FILE, Deed, LogRead, WorldLog, read_log
from unimodel.world.sessions.past import Birth, LivedBy, Past

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
TOKEN_FILE = "token"


def world_folder(run: RunFolder, name: str) -> Path:
    """Where the world `name` lies. Raises ValueError for what cannot be a name."""
    if not NAME.fullmatch(name):
        raise ValueError(f"'{name}' is no name for a world: take up to 64 letters, digits, _ and -")
    return run.worlds / name


def require_world(run: RunFolder, name: str) -> Path:
    """The same. Raises FileNotFoundError when there is none."""
    folder = world_folder(run, name)
    if not (folder / LOG_FILE).exists():
        require_run(run)
        known, how = ", ".join(world_names(run)) or "none", f"unimodel world create {run.path} {name}"
        raise FileNotFoundError(f"run {run.path} has no world '{name}' (it has {known}): make one with `{how}`")
    return folder


def require_run(run: RunFolder) -> None:
    """Raises FileNotFoundError when there is no such run, or no more."""
    if not run.config_file.exists():
        raise FileNotFoundError(f"{run.path} is not a run folder: it has no {run.config_file.name}")


def require_folder(run: RunFolder, name: str) -> Path:
    """The same, also of a world whose log is gone."""
    folder = world_folder(run, name)
    return folder if folder.is_dir() else require_world(run, name)


def world_names(run: RunFolder) -> list[str]:
    """All of them, sorted."""
    if not run.worlds.is_dir():
        return []
    return sorted(folder.name for folder in run.worlds.iterdir() if NAME.fullmatch(folder.name) and folder.is_dir())


def make_world(run: RunFolder, name: str, birth: Birth, frame: np.ndarray, lived_by: LivedBy) -> Path:
    """A world that begins with `frame`, codes [rows, columns]. Raises ValueError when the name is taken, OSError."""
    with new_world(run, name) as folder:
        WorldLog.create(folder, [(birth.deed(lived_by, frame), None)])
    return world_folder(run, name)


def name_moment(run: RunFolder, name: str, tag: str | None = None) -> tuple[int, str]:
    """Gives the world's last tick a name, tick-N when none is given, and returns both. Raises ValueError for a name
    that is taken or cannot be one, and what `writing` does."""
    if tag is not None and not NAME.fullmatch(tag):
        raise ValueError(f"'{tag}' is no name for a moment: take up to 64 letters, digits, _ and -")
    with writing(run, name) as (past, log):
        tag = tag or f"tick-{past.tick}"
        if tag in past.tags:
            raise ValueError(f"tick {past.tags[tag]} of '{name}' has the name '{tag}' already")
        log.append([Deed("tag", past.tick, value={"name": tag})])
        return past.tick, tag


def moment_of(run: RunFolder, name: str, tick: int | None, tag: str | None) -> int:
    """The tick that is meant by its number or by its name. Raises ValueError for neither or both and a name that nobody
    gave, FileNotFoundError when there is no such world."""
    if (tick is None) == (tag is None):
        raise ValueError("say which moment: --tick N, or --tag NAME for one that has a name")
    if tick is not None:
        return tick
    tags = Past.of(read_world(run, name)[1].entries).tags
    if tag not in tags:
        raise ValueError(f"'{name}' has no moment '{tag}'; it has {', '.join(tags) or 'none with a name'}")
    return tags[tag]


def rewind_world(run: RunFolder, name: str, tick: int) -> int:
    """Takes the world back to a tick, and returns the one where it was: what came after is in the log alone. Raises
    ValueError when there is none such, and what `writing` does."""
    with writing(run, name) as (past, log):
        past.at(tick)
        log.rewind(Deed("rewind", tick, value={"from": past.tick}))
        return past.tick


@contextmanager
def writing(run: RunFolder, name: str) -> Iterator[tuple[Past, WorldLog]]:
    """A world's past, and its log to write to. Raises FileNotFoundError when there is none, RunError when a process
    lives it, ValueError when it is damaged, OSError."""
    folder = require_world(run, name)
    lock = WriterLock(folder / LOCK_FILE)
    try:
        entries = read_log(folder).require_whole(folder / LOG_FILE)
        with closing(WorldLog(folder, entries[-1])) as log:
            yield Past.of(entries), log
    finally:
        lock.release()


def delete_world(run: RunFolder, name: str) -> None:
    """Raises FileNotFoundError when there is none, RunError when a process lives it."""
    folder = require_folder(run, name)
    lock = WriterLock(folder / LOCK_FILE)
    try:
        gone = folder.with_name(f".{name}.{secrets.token_hex(4)}.deleted")
        folder.rename(gone)
        sync_folder(run.worlds)
        shutil.rmtree(gone)
    finally:
        lock.release()


def read_world(run: RunFolder, name: str) -> tuple[Path, LogRead]:
    """The world's folder and its log. Raises FileNotFoundError when there is none."""
    folder = require_world(run, name)
    return folder, read_log(folder)


def kept_token(folder: Path) -> str:
    """What a page must know to join the world, the same whenever it is served."""
    path = folder / TOKEN_FILE
    with suppress(FileExistsError):
        path.touch(mode=0o600, exist_ok=False)
    token = path.read_text(encoding="ascii").strip()
    if not token:
        token = secrets.token_urlsafe(24)
        path.write_text(token, encoding="ascii")
    return token


def files_bytes(folder: Path) -> int:
    """Of the log, with what SQLite has beside it."""
    return sum(file.stat().st_size for file in (*folder.glob(f"{LOG_FILE}*"), *folder.glob(HEAD_FILE)))


@contextmanager
def new_world(run: RunFolder, name: str) -> Iterator[Path]:
    """A folder that is there, as that of the world `name`, when the block ends well. Raises ValueError when the name is
    taken, OSError."""
    folder = world_folder(run, name)
    if folder.exists():
        raise ValueError(f"run {run.path} has a world '{name}' already: choose another name, or delete it")
    for left in run.worlds.glob(f".{name}.*"):  # by one who was killed
        shutil.rmtree(left, ignore_errors=True)
    hidden = folder.with_name(f".{name}.{secrets.token_hex(4)}.new")
    try:
        yield hidden
        hidden.rename(folder)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    sync_folder(run.worlds)
