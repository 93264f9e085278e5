"""The table of what was done while a film was made: a CSV file of steps or times, actions, rewards and ends."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines.sources.files import read_inside

STEP, TIME, ACTION, REWARD, DONE = "step", "time_seconds", "action", "reward", "done"
TRUTH = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True, slots=True)
class ActionTable:
    """N rows; `at` holds steps or times.

    name     of the file
    by_time  whether `at` is seconds from the first frame, rising; else it is 0 .. N - 1
    rewards  nan when nobody wrote them down
    """

    name: str
    by_time: bool
    at: np.ndarray
    actions: tuple[str, ...]
    rewards: np.ndarray
    done: np.ndarray

    def between(self, times: Sequence[float]) -> tuple[list[str], np.ndarray, np.ndarray]:
        """(action, reward, done) of the T steps between T + 1 frames that are shown at `times`, seconds.

        A row by time is about the frame whose time is nearest: clocks are rounded. Of a step the action is the last
        that was taken by then, and all rewards and ends are of the frame that follows. Nobody saw where an action at
        the last frame led: it is left out, and what its row tells arrives with that frame.
        Raises ValueError when the table is not about these frames.
        """
        steps = len(times) - 1
        if steps < 1:
            raise ValueError(f"it has {len(times)} frame, between which nothing can be done")
        frame, told = self._frame_of_rows(np.asarray(times))
        latest = np.searchsorted(frame, np.arange(steps), side="right") - 1
        step = np.minimum(frame, steps - 1)[told]
        rewards = np.full(steps, np.nan, dtype=np.float32)
        if not np.isnan(self.rewards).any():
            rewards = np.bincount(step, self.rewards[told], steps).astype(np.float32)
        done = np.bincount(step, self.done[told], steps) > 0
        return [self.actions[row] for row in latest], rewards, done

    def _frame_of_rows(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int [N] the frame that each row is about, rising, and bool [N] whether it is of the film's time."""
        if not self.by_time:
            if len(self.at) not in (len(times), len(times) - 1):
                raise ValueError(
                    f"{self.name} has {len(self.at)} rows where the film has {len(times)} frames: give every frame a "
                    f"row (the last may be left out), or {TIME} instead of {STEP}"
                )
            return np.arange(len(self.at)), np.ones(len(self.at), dtype=np.bool_)
        half = np.diff(times) / 2
        frame = np.searchsorted(times[:-1] + half, self.at)
        if frame[0]:
            raise ValueError(f"{self.name}, row 1: begins at second {self.at[0]:g}: what was done before?")
        return frame, (self.at >= times[0] - half[0]) & (self.at <= times[-1] + half[-1])


def read_action_table(root: Path, name: str) -> ActionTable:
    """The table `name` under `root`. Raises ValueError naming the file, and the row, counted from 1 after the header,
    that cannot be used."""
    try:
        text = read_inside(root, name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text (byte {error.start})") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = [column.strip() for column in _header(reader, name)]
    reader.fieldnames = columns
    by_time = TIME in columns
    if (STEP in columns) == by_time or ACTION not in columns:
        there = ", ".join(columns) or "none"
        raise ValueError(f"{name} needs the columns {ACTION} and either {STEP} or {TIME}; it has {there}")
    at: list[float] = []
    actions: list[str] = []
    rewards: list[float] = []
    done: list[bool] = []
    for number, row in _rows(reader, name):
        where = f"{name}, row {number}"
        at.append(_time(row[TIME], at, where) if by_time else _step(row[STEP], len(at), where))
        actions.append(_filled(row[ACTION], ACTION, where))
        rewards.append(_number(row[REWARD], REWARD, where) if REWARD in columns else math.nan)
        done.append(_truth(row[DONE], where) if DONE in columns else False)
    if not actions:
        raise ValueError(f"{name} has no row")
    return ActionTable(name, by_time, np.array(at), tuple(actions), np.array(rewards), np.array(done))


def _header(reader: csv.DictReader, name: str) -> Sequence[str]:
    try:
        return reader.fieldnames or ()
    except csv.Error as error:
        raise ValueError(f"{name} is not valid CSV ({error})") from None


def _rows(reader: csv.DictReader, name: str) -> Iterator[tuple[int, dict[str, str]]]:
    number = 0
    try:
        for number, row in enumerate(reader, start=1):
            if None in row or None in row.values():
                raise ValueError(f"{name}, row {number}: it has not as many values as the header")
            yield number, row
    except csv.Error as error:
        raise ValueError(f"{name}, row {number + 1}: not valid CSV ({error})") from None


def _step(text: str, expected: int, where: str) -> float:
    if text.strip() != str(expected):
        raise ValueError(f"{where}: {STEP} is {text!r} where {expected} comes next")
    return expected


def _time(text: str, before: Sequence[float], where: str) -> float:
    time = _number(text, TIME, where)
    if before and time <= before[-1]:
        raise ValueError(f"{where}: {TIME} is {time:g} after {before[-1]:g}: rows must rise")
    return time


def _filled(text: str, column: str, where: str) -> str:
    if not text.strip():
        raise ValueError(f"{where}: {column} is empty")
    return text.strip()


def _number(text: str, column: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {column} is {text!r}, not a number")
    return number


def _truth(text: str, where: str) -> bool:
    if text.strip().lower() not in TRUTH:
        raise ValueError(f"{where}: {DONE} is {text!r}, not one of {', '.join(TRUTH)}")
    return TRUTH[text.strip().lower()]
