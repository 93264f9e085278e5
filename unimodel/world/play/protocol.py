"""What page and server say to each other: JSON text over one WebSocket, each message typed and checked.

The client's first message is `hello`. Everything else it says is a wish; the server owns the clock and the world, and
answers what cannot be done with a `notice`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

Mode = Literal["turns", "real_time"]
Side = Literal["left", "right"]
Choice = Literal["left", "right", "same"]
Panel = Literal["dream", "real", "left", "right", "world"]

MAX_TEXT_CHARACTERS = 400
NAME = r"^[A-Za-z0-9_-]{1,24}$"
"""Of somebody in a shared world."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# --- what a client says ---------------------------------------------------------------------------------------------


class Hello(_Message):
    """The first message. `session` is a world that this client has had before; `joining` says what to do when another
    client has it now. In a shared world `name` is who one wants to be, `session` who one was."""

    type: Literal["hello"]
    token: Annotated[str, Field(max_length=200)]
    session: Annotated[str, Field(max_length=100)] | None = None
    joining: Literal["ask", "take_over", "watch"] = "ask"
    name: Annotated[str, Field(pattern=NAME)] | None = None


class Key(_Message):
    """The key of an action went down or up."""

    type: Literal["key"]
    action: Annotated[int, Field(ge=0, lt=1 << 16)]
    down: bool


class Release(_Message):
    """All keys are up: the page lost the keyboard."""

    type: Literal["release"]


class Ack(_Message):
    """The frame is on the screen."""

    type: Literal["ack"]
    frame: Annotated[int, Field(ge=0)]


class SetMode(_Message):
    """Who moves time: a key, or the clock."""

    type: Literal["mode"]
    mode: Mode


class Pause(_Message):
    """Stops the clock, or lets it run again."""

    type: Literal["pause"]
    paused: bool


class Step(_Message):
    """One step with what is held down, or with the action that does nothing."""

    type: Literal["step"]


class Rewind(_Message):
    """Back (or forward again) to step `step` of the current branch; time stands still there."""

    type: Literal["rewind"]
    step: Annotated[int, Field(ge=0)]


class Branch(_Message):
    """A new branch from here; the old one stays."""

    type: Literal["branch"]


class Switch(_Message):
    """To the end of another branch."""

    type: Literal["switch"]
    branch: Annotated[int, Field(ge=0)]


class Restart(_Message):
    """From the first frame of an episode, the same one when none is named."""

    type: Literal["restart"]
    episode: Annotated[int, Field(ge=0)] | None = None


class Text(_Message):
    """What happens with the next step or, as the run has learnt it, what the mission is from then on."""

    type: Literal["text"]
    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)]


class Record(_Message):
    """Begins or ends a recording."""

    type: Literal["record"]
    on: bool


class Compare(_Message):
    """Begins a blind trial of two checkpoints, or goes back to playing."""

    type: Literal["compare"]
    on: bool


class Vote(_Message):
    """Ends a trial."""

    type: Literal["vote"]
    choice: Choice


ClientMessage = Annotated[
    Hello
    | Key
    | Release
    | Ack
    | SetMode
    | Pause
    | Step
    | Rewind
    | Branch
    | Switch
    | Restart
    | Text
    | Record
    | Compare
    | Vote,
    Field(discriminator="type"),
]
_ADAPTER: TypeAdapter[ClientMessage] = TypeAdapter(ClientMessage)


def is_name(text: str) -> bool:
    """Whether somebody may be called that."""
    return re.fullmatch(NAME, text) is not None


def parse(text: str) -> ClientMessage:
    """Raises ValueError with the first thing wrong; what the client sent is not repeated."""
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None


# --- what the server says -------------------------------------------------------------------------------------------


class Control(_Message):
    """An action: `key` is a `KeyboardEvent.code`, a chord has none; `is_idle` is the one that does nothing."""

    name: str
    key: str | None
    is_idle: bool


class Welcome(_Message):
    """The answer to `hello`: what can be played here, and as whom."""

    type: Literal["welcome"] = "welcome"
    session: str
    role: Literal["player", "watcher"]
    run: str
    dreamed_by: str
    real: str | None
    """The environment, or none when the episodes are from elsewhere."""
    controls: tuple[Control, ...]
    episodes: int
    fps: float
    passes: int
    can_compare: bool
    hears_events: bool
    """What a text is: an event, or else a new mission."""
    text_tokens: int
    world: str | None = None
    """The name of the one world that all clients share, where they do."""
    you: str | None = None
    """Who one is there."""
    seats: tuple[str, ...] = ()
    """In one of several agents, what each is called."""
    seat: int | None = None
    """Which of them one is; none while one looks on. It may change: `life` of the state has it."""


class Occupied(_Message):
    """Another client has this world: say `hello` again, with what to do."""

    type: Literal["occupied"] = "occupied"


class BranchState(_Message):
    """Its own moments are the steps after `fork`, up to `tip`."""

    number: int
    parent: int | None
    fork: int
    tip: int


class Happening(_Message):
    """An event before the action of step `step`."""

    step: int
    text: str


class Recording(_Message):
    """`folder` is where the last one went."""

    on: bool
    folder: str | None


class Revealed(_Message):
    """What stood where, and all votes on this pair so far."""

    choice: Choice
    left: str
    right: str
    wins: dict[str, int]
    same: int


class Trial(_Message):
    """A blind trial; `result` once the vote is in."""

    number: int
    result: Revealed | None


class Person(_Message):
    """Somebody, or some program, in a shared world."""

    name: str
    since: int
    """The tick with which they came."""


class Note(_Message):
    """What happened to a shared world, besides its steps."""

    tick: int
    text: str


class Life(_Message):
    """Of a world that is kept."""

    agents: tuple[Person, ...]
    seats: tuple[str | None, ...] = ()
    """In one of several agents, who each of them is; those who are none look on."""
    notes: tuple[Note, ...]
    """The last ones, the newest first."""
    memory_bytes: int
    """Of what the model remembers beyond its window."""
    log_bytes: int
    born: float
    """Seconds since 1970."""


class State(_Message):
    """All that changes now and then; sent whole."""

    type: Literal["state"] = "state"
    episode: int
    panels: tuple[Panel, ...]
    mode: Mode
    paused: bool
    why_paused: str | None
    mission: str
    events: tuple[Happening, ...]
    """On the way here."""
    coming: tuple[str, ...]
    """With the next step."""
    branch: int
    step: int
    branches: tuple[BranchState, ...]
    psnr: tuple[float | None, ...]
    """Of the current branch, by step."""
    recording: Recording
    trial: Trial | None
    life: Life | None = None


class Measured(_Message):
    """How fast it goes: pictures a second, refinement passes, and key to picture over the last keys."""

    fps: float | None
    passes: int
    p50_ms: float | None
    p95_ms: float | None
    dropped: int


class Acted(_Message):
    """What one of several agents did, and whose it was; neither where it did nothing that is known."""

    agent: str | None
    action: int | None


class Frame(_Message):
    """What is to be seen now: a PNG in base64 for every panel, "" where there is nothing."""

    type: Literal["frame"] = "frame"
    id: int
    branch: int
    step: int
    action: int | None
    agent: str | None = None
    """Whose it was, in a shared world."""
    acts: tuple[Acted, ...] = ()
    """In one of several agents, what each did; `action` and `agent` are none there."""
    pictures: tuple[str, ...]
    psnr: float | None
    differs: bool
    """Dream and reality, visibly."""
    differs_at: int | None
    """The first step at which they did."""
    real_note: str | None
    possible: tuple[str, ...]
    """Some events that can happen next in the real environment."""
    measured: Measured


class Notice(_Message):
    """Something to tell the person; `code` is for programs."""

    type: Literal["notice"] = "notice"
    level: Literal["info", "error"]
    code: str
    text: str


ServerMessage = Welcome | Occupied | State | Frame | Notice
