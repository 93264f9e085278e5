"""What is true of a world now, told from its log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from unimodel.world.sessions.log import FORMAT, Deed, Entry
from unimodel.world.state import WorldState

NOBODY = ""


@dataclass(frozen=True, slots=True)
class LivedBy:
    """The model in which a world is lived: SHA-256 of its checkpoint and of the run's tokenizers, and where it was."""

    checkpoint: str
    stage: str
    step: int
    tokenizers: str

    def __str__(self) -> str:
        return f"stage '{self.stage}', step {self.step:,} ({self.checkpoint[:12]})"


@dataclass(frozen=True, slots=True)
class Birth:
    """How a world began: in frames of `shape` (rows, columns) codes, with the `actions` of its environment by name,
    from `episode` of `split`, with `seed` for whatever is drawn."""

    shape: tuple[int, int]
    mission: str
    mission_ids: tuple[int, ...]
    actions: tuple[str, ...]
    episode: int
    split: str
    environment: str
    seed: int

    def numbers_of(self, actions: Sequence[str]) -> list[int]:
        """Of actions that are given by number or by name. Raises ValueError for one that there is not."""
        numbers = {name: number for number, name in enumerate(self.actions)}
        numbers |= {str(number): number for number in range(len(self.actions))}
        if unknown := [action for action in actions if action.strip() not in numbers]:
            known = ", ".join(f"{number} {name}" for number, name in enumerate(self.actions))
            raise ValueError(f"'{unknown[0]}' is no action of this world; it has {known}")
        return [numbers[action.strip()] for action in actions]

    def deed(self, lived_by: LivedBy, frame: np.ndarray) -> Deed:
        """The first one of a log."""
        value = {"format": FORMAT, "birth": asdict(self), "lived_by": asdict(lived_by)}
        return Deed("born", 0, value=value, codes=frame_bytes(frame))


@dataclass(frozen=True, slots=True)
class Tick:
    """One step: what was told before it, who did what, its frame, and its entry in the log."""

    told: tuple[Deed, ...]
    acts: tuple[Deed, ...]
    passes: int
    codes: bytes
    entry: int
    crc32: int


@dataclass(slots=True)
class Past:
    """`of` reads one; `add` what happens from then on. Deeds of a tick to come wait until it does."""

    birth: Birth
    born_at: float
    lived_by: LivedBy
    first: Tick
    ticks: list[Tick] = field(default_factory=list)
    """Those that hold: what a rewind took back is in the log alone."""
    told: list[Deed] = field(default_factory=list)
    """Before these ticks, in order."""
    coming: list[Deed] = field(default_factory=list)
    """Told before the next tick."""
    here: dict[str, int] = field(default_factory=dict)
    """Agents that have joined and not left, each since which tick."""
    tags: dict[str, int] = field(default_factory=dict)
    notable: list[Entry] = field(default_factory=list)
    """All but ticks and acts, in order."""
    last: Entry | None = None
    _acts: list[Deed] = field(default_factory=list)

    @staticmethod
    def of(entries: Iterable[Entry]) -> Past:
        """Raises ValueError for a log of another version."""
        rest = iter(entries)
        born = next(rest)
        value: dict[str, Any] = born.deed.value
        if value.get("format") != FORMAT:
            raise ValueError(f"the world's log is of another version of unimodel: it reads format {FORMAT}")
        about: dict[str, Any] = {
            key: tuple(part) if isinstance(part, list) else part for key, part in value["birth"].items()
        }
        first = Tick((), (), 0, born.deed.codes, born.number, born.crc32)
        past = Past(Birth(**about), born.time, LivedBy(**value["lived_by"]), first, last=born)
        for entry in rest:
            past.add(entry)
        return past

    @property
    def tick(self) -> int:
        """How many steps were taken."""
        return len(self.ticks)

    def add(self, entry: Entry) -> None:
        """One more thing has happened."""
        deed, self.last = entry.deed, entry
        if deed.kind not in ("act", "tick"):
            self.notable.append(entry)
        match deed.kind:
            case "act":
                self._acts.append(deed)
            case "tick":
                passes = deed.value["passes"]
                told, acts = tuple(self.coming), tuple(self._acts)
                self.told += told
                self.ticks.append(Tick(told, acts, passes, deed.codes, entry.number, entry.crc32))
                self.coming, self._acts = [], []
            case "event" | "mission":
                self.coming.append(deed)
            case "join":
                self.here[deed.agent] = deed.tick
            case "leave":
                self.here.pop(deed.agent, None)
            case "tag":
                self.tags[deed.value["name"]] = deed.tick
            case "adopt":
                self.lived_by = LivedBy(**deed.value["lived_by"])
            case "rewind":
                del self.ticks[deed.tick :]
                self.coming = []
                self.told = [each for each in self.told if each.tick <= deed.tick]
                self.tags = {name: tick for name, tick in self.tags.items() if tick <= deed.tick}
            case "open":
                self.here = {}  # whoever was there went with the process

    def at(self, tick: int) -> Tick:
        """Raises ValueError when it has not come so far."""
        if not 0 <= tick <= self.tick:
            raise ValueError(f"this world has the ticks 0 to {self.tick}, not {tick}")
        return self.ticks[tick - 1] if tick else self.first

    def mission(self, tick: int) -> tuple[str, np.ndarray]:
        """The mission that the frame of `tick` was made under, as text and ids."""
        for deed in reversed(self.told):
            if deed.kind == "mission" and deed.tick <= tick:
                return deed.value["text"], ids_of(deed)
        return self.birth.mission, np.array(self.birth.mission_ids, dtype=np.int64)

    def state(self, tick: int) -> WorldState:
        """All that a model reads of the time up to `tick`."""
        lived = self.ticks[:tick]
        frames = np.stack([self.frame(each) for each in (self.first, *lived)])
        actions = np.array([action_of(each) for each in lived], dtype=np.int64)
        events = [(step, ids_of(deed)) for step, each in enumerate(lived) for deed in each.told if deed.kind == "event"]
        return WorldState(self.mission(tick)[1], frames, actions, tuple(events))

    def frame(self, tick: Tick) -> np.ndarray:
        """int64 codes [rows, columns]."""
        return np.frombuffer(tick.codes, dtype="<i4").astype(np.int64).reshape(self.birth.shape)


def holding(entries: Iterable[Entry], tick: int) -> list[Entry]:
    """Of a log, what still holds of the time up to `tick`."""
    held: list[Entry] = []
    for entry in entries:
        if entry.deed.kind == "rewind":
            held = [each for each in held if each.deed.tick <= entry.deed.tick]
        elif entry.deed.kind != "open":
            held.append(entry)
    return [each for each in held if each.deed.tick <= tick]


def action_of(tick: Tick) -> int:
    """What the model was given."""
    (act,) = tick.acts
    assert act.action is not None
    return act.action


def ids_of(deed: Deed) -> np.ndarray:
    """Of a text that the world was told."""
    return np.array(deed.value["ids"], dtype=np.int64)


def frame_bytes(codes: np.ndarray) -> bytes:
    """As a log holds a frame."""
    return codes.astype("<i4").tobytes()
