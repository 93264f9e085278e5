"""What is true of a world now, told from its log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from data_pipelines.sources.episode import UNKNOWN_ACTION
from data_pipelines.sources.world import Action
from unimodel.world.sessions.log import FORMAT, Deed, Entry
from unimodel.world.state import WorldState

NOBODY = ""
AWAY = ("-", "absent")
"""How one writes that an agent does not act."""


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
    from `episode` of `split`, with `seed` for whatever is drawn. Several `agents` have names, "" where the environment
    tells none; () is one agent."""

    shape: tuple[int, int]
    mission: str
    mission_ids: tuple[int, ...]
    actions: tuple[str, ...]
    episode: int
    split: str
    environment: str
    seed: int
    agents: tuple[str, ...] = ()

    @property
    def num_agents(self) -> int:
        """How many act in every tick."""
        return max(1, len(self.agents))

    def seat_name(self, seat: int) -> str:
        """What somebody is who is one of several agents."""
        number, name = f"agent {seat}", self.agents[seat]
        return number if name in ("", number.replace(" ", "_")) else f"{number} ({name})"

    def ticks_of(self, texts: Sequence[str]) -> list[list[int]]:
        """What each agent does in ticks that are given as `left` or `0`; of several agents as `left+1`, with `-` for
        one that does not act: UNKNOWN_ACTION. Raises ValueError for an action that there is not, or not one of each.
        """
        if self.num_agents == 1:
            return [[number] for number in self.numbers_of(texts)]
        ticks: list[list[int]] = []
        for each in (text.split("+") for text in texts):
            if len(each) != self.num_agents:
                raise ValueError(
                    f"'{'+'.join(each)}' is not an action of each of {self.num_agents} agents: join them by +, as "
                    f"{'+'.join(self.actions[:1] * self.num_agents)}, with - for one that does not act"
                )
            ticks.append([UNKNOWN_ACTION if one.strip() in AWAY else self.numbers_of([one])[0] for one in each])
        return ticks

    def names_of(self, acts: Sequence[int]) -> str:
        """The reverse, of one tick."""
        return "+".join(AWAY[0] if act == UNKNOWN_ACTION else self.actions[act] for act in acts)

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
        about = asdict(self)
        if not self.agents:
            del about["agents"]  # as it always was
        value = {"format": FORMAT, "birth": about, "lived_by": asdict(lived_by)}
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
    """Who has joined and not left, each since which tick."""
    seats: dict[str, int] = field(default_factory=dict)
    """Of those, who acts and which agent each is; in a world of one agent all share it."""
    seats_before: dict[str, int] = field(default_factory=dict)
    """Which agent everybody was last who ever acted as one of several."""
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
                self._sit(deed)
            case "seat":
                self._sit(deed)
            case "leave":
                self.here.pop(deed.agent, None)
                self.seats.pop(deed.agent, None)
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
                self.here, self.seats = {}, {}  # whoever was there went with the process

    def free_seat(self, agent: str) -> int | None:
        """Which of several agents somebody who comes is: the one that they were before, else the first that nobody is;
        None when all are taken."""
        taken = self.seats.values()
        free = [seat for seat in range(self.birth.num_agents) if seat not in taken]
        before = self.seats_before.get(agent)
        return before if before in free else next(iter(free), None)

    def waiting(self) -> str | None:
        """Who has looked on for longest."""
        return next((agent for agent in self.here if agent not in self.seats), None)

    def _sit(self, deed: Deed) -> None:
        if self.birth.num_agents == 1:
            self.seats[deed.agent] = 0
        elif "seat" in deed.value:
            self.seats[deed.agent] = self.seats_before[deed.agent] = deed.value["seat"]

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
        several = (self.birth.num_agents,) if self.birth.num_agents > 1 else ()
        actions = np.array([action_of(each) for each in lived], dtype=np.int64).reshape(-1, *several)
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


def action_of(tick: Tick) -> Action:
    """What the model was given: a number, or one of each of several agents."""
    actions = [act.action for act in tick.acts if act.action is not None]
    return actions[0] if len(actions) == 1 else actions


def ids_of(deed: Deed) -> np.ndarray:
    """Of a text that the world was told."""
    return np.array(deed.value["ids"], dtype=np.int64)


def frame_bytes(codes: np.ndarray) -> bytes:
    """As a log holds a frame."""
    return codes.astype("<i4").tobytes()
