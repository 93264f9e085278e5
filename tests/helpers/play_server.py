"""A play server on a free port of this machine, and clients that say and hear one message at a time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from unimodel.training.loaded_run import LoadedRun
from unimodel.world.play.address import Address, bind
from unimodel.world.play.hub import Hub
from unimodel.world.play.place import Lobby
from unimodel.world.play.playground import open_playground
from unimodel.world.play.rooms import Rooms
from unimodel.world.play.serve import server_config
from unimodel.world.play.server import build_app
from unimodel.world.play.settings import Limits, PlaySettings
from unimodel.world.play.shared_ground import open_shared_ground
from unimodel.world.play.shared_room import SharedRoom

TOKEN = "a-token-for-tests"
ANSWER_SECONDS = 60.0
"""Longest wait for a message; nothing is measured with it, it only ends a test that hangs."""
LEFT, RIGHT, FORWARD, DONE = 0, 1, 2, 6
KEYS = [LEFT, FORWARD, FORWARD, RIGHT, FORWARD, LEFT, FORWARD]
"""Actions of MiniGrid."""


@dataclass(frozen=True)
class PlayServer:
    """One that answers."""

    port: int
    hub: Hub

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @contextmanager
    def client(self, *, hello: bool = True, **headers: Any) -> Iterator[PlayClient]:
        """A client, which has been welcomed unless `hello` is False."""
        with connect(f"ws://127.0.0.1:{self.port}/ws", proxy=None, max_queue=None, **headers) as socket:
            client = PlayClient(socket)
            if hello:
                client.enter()
            yield client


class PlayClient:
    """`say` and `hear`; frames are acknowledged as they come."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.welcome: dict[str, Any] = {}
        self.step = 0
        """Of the last frame that was heard."""

    def say(self, kind: str, **values: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **values}))

    def enter(self, session: str | None = None, joining: str = "ask", name: str | None = None) -> dict[str, Any]:
        self.say("hello", token=TOKEN, session=session, joining=joining, name=name)
        self.welcome = self.hear("welcome")
        return self.welcome

    def hear(self, *kinds: str, until: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The next message of one of these kinds for which `until` holds; others are passed over."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            message = json.loads(self.socket.recv(timeout=max(0.0, deadline - time.monotonic())))
            if message["type"] == "frame":
                self.say("ack", frame=message["id"])
                self.step = message["step"]
            if message["type"] in kinds and until(message):
                return message

    def start(self) -> dict[str, Any]:
        """The first frame, after the welcome."""
        return self.hear("frame", until=lambda frame: frame["step"] == 0)

    def tap(self, action: int) -> dict[str, Any]:
        """A key goes down and up; the frame that it leads to."""
        next_step = self.step + 1
        self.say("key", action=action, down=True)
        self.say("key", action=action, down=False)
        return self.hear("frame", until=lambda frame: frame["step"] == next_step)

    def play(self, actions: Sequence[int]) -> list[str]:
        """The dreamed pictures after each of them."""
        return [self.tap(action)["pictures"][0] for action in actions]

    def closed(self) -> tuple[int, str]:
        """The code and the reason with which the server ends the connection."""
        try:
            while True:
                self.socket.recv(timeout=ANSWER_SECONDS)
        except ConnectionClosed as closed:
            assert closed.rcvd is not None
            return closed.rcvd.code, closed.rcvd.reason


@contextmanager
def play_server(*runs: LoadedRun, settings: PlaySettings | None = None, **limits: Any) -> Iterator[PlayServer]:
    """Plays `runs` until the block ends; `limits` are those that differ from the usual ones."""
    settings = settings or PlaySettings(limits=Limits(**limits))
    with _serving(Rooms(open_playground(runs, settings))) as server:
        yield server


@contextmanager
def shared_server(
    run: LoadedRun, name: str, port: int = 0, bots: Sequence[str] = (), **limits: Any
) -> Iterator[PlayServer]:
    """Plays the world `name` with all who come, and with `bots`, until the block ends."""
    ground = open_shared_ground(run, name, PlaySettings(limits=Limits(**limits)), bots=bots)
    with _serving(SharedRoom(ground), port) as server:
        yield server


@contextmanager
def _serving(lobby: Lobby, port: int = 0) -> Iterator[PlayServer]:
    app = build_app(lobby, TOKEN)
    with ExitStack() as stack:
        listener = stack.enter_context(bind(Address("127.0.0.1", port, TOKEN, exposed=False)))
        server = uvicorn.Server(server_config(app, lobby.settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            deadline = time.monotonic() + ANSWER_SECONDS
            while not server.started:
                if not thread.is_alive() or time.monotonic() > deadline:
                    pytest.fail("the server did not start")
                time.sleep(0.01)
            yield PlayServer(listener.getsockname()[1], app.state.hub)
        finally:
            server.should_exit = True
            thread.join()
