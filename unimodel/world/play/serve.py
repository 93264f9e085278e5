"""Loads what is to be played and serves it until Ctrl-C."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from unimodel.observe.progress import say
from unimodel.training.loaded_run import load_run
from unimodel.world.play.address import Address, is_loopback
from unimodel.world.play.place import Lobby
from unimodel.world.play.playground import open_playground
from unimodel.world.play.rooms import Rooms
from unimodel.world.play.server import build_app
from unimodel.world.play.settings import PlaySettings
from unimodel.world.play.shared_ground import open_shared_ground
from unimodel.world.play.shared_room import SharedRoom

PING_SECONDS = 20.0
SHUTDOWN_SECONDS = 5
CONNECTIONS = 64
"""Of all kinds, until the server says that it is busy."""


def serve(
    stages: Sequence[tuple[Path, str]], settings: PlaySettings, address: Address, listener: socket.socket
) -> None:
    """Serves the stage of the first run, to be compared with the second's if there is one, at `listener`.

    Raises ValueError when they cannot be played, or not with each other.
    """
    ground = open_playground([load_run(path, stage) for path, stage in stages], settings)
    for checkpoint in ground.checkpoints:
        say(f"dreamed by {checkpoint}")
    _serve(Rooms(ground), address, listener)
    say(f"ended; what was recorded is in {ground.run.path / 'played'}")


def serve_world(
    path: Path,
    stage: str,
    name: str,
    settings: PlaySettings,
    address: Address,
    listener: socket.socket,
    *,
    adopt: bool,
    bots: Sequence[str] = (),
) -> None:
    """Serves one world of a run, which all clients and `bots` share, at `listener`.

    Raises FileNotFoundError when there is no such world, RunError when another process lives it, ValueError when it is
    damaged or of another checkpoint, and for bots that cannot be.
    """
    ground = open_shared_ground(load_run(path, stage), name, settings, adopt=adopt, bots=bots)
    say(f"'{name}' goes on from tick {ground.world.tick}, dreamed by {ground.dream.checkpoint}")
    _serve(SharedRoom(ground), address, listener)
    say(f"ended at tick {ground.world.tick}; the same command goes on from there")


def _serve(lobby: Lobby, address: Address, listener: socket.socket) -> None:
    """Until Ctrl-C."""
    server = uvicorn.Server(server_config(build_app(lobby, address.token, address.host), lobby.settings))
    if not is_loopback(address.host):
        say("WARNING: other machines reach this server, and nothing is encrypted; whoever has the address plays.")
    listener.listen()  # from here on a browser is kept waiting, not turned away
    say(f"open {address.url(listener.getsockname()[1])}   (Ctrl-C ends)")
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended in order and passes it on
        server.run(sockets=[listener])


def server_config(app: object, settings: PlaySettings) -> uvicorn.Config:
    """No access log: nothing of a request is written down."""
    return uvicorn.Config(
        app,  # pyright: ignore[reportArgumentType]
        access_log=False,
        log_level="warning",
        server_header=False,
        limit_concurrency=CONNECTIONS,
        ws_max_size=settings.limits.message_bytes,
        ws_max_queue=16,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        ws_per_message_deflate=False,  # pictures are compressed already
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
