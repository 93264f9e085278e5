"""`unimodel play`: opens a port, loads the run, and serves until Ctrl-C."""

from __future__ import annotations

import errno
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from unimodel.observe.progress import say
from unimodel.training.loaded_run import load_run
from unimodel.world.play.dream import playable_stage
from unimodel.world.play.playground import PlaySettings, open_playground
from unimodel.world.play.server import build_app, is_loopback

TOKEN = re.compile(r"[A-Za-z0-9_-]{8,100}")
PING_SECONDS = 20.0
SHUTDOWN_SECONDS = 5
CONNECTIONS = 64
"""Of all kinds, until the server says that it is busy."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is reached, and what a client must know. Raises ValueError for an unsafe choice."""

    host: str
    port: int
    token: str
    exposed: bool

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.exposed:
            raise ValueError(
                f"--host {self.host} lets other machines reach this server, unencrypted: say --expose if that is meant "
                "(or keep 127.0.0.1 and use `ssh -L`)"
            )
        if not TOKEN.fullmatch(self.token):
            raise ValueError("--token must have 8 to 100 letters, digits, _ or -")

    @staticmethod
    def chosen(host: str, port: int, token: str | None, *, exposed: bool) -> Address:
        """With a random token when none is given."""
        return Address(host, port, secrets.token_urlsafe(24) if token is None else token, exposed)

    def url(self, port: int) -> str:
        """What to open. The token stands behind #, which a browser never sends: it is in no log and no referrer."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}/#{self.token}"


def play(run: Path, stage: str | None, compare: Path | None, settings: PlaySettings, address: Address) -> None:
    """Serves `run`, compared with the run `compare` if one is given, until Ctrl-C.

    Raises ValueError when a run cannot be played, the port is in use, or the address is no address of this machine.
    """
    stages = [(run, playable_stage(run, stage))]
    if compare is not None:
        stages.append((compare, playable_stage(compare, None)))
    with bind(address) as listener:
        ground = open_playground([load_run(path, name) for path, name in stages], settings)
        server = uvicorn.Server(server_config(build_app(ground, address.token, address.host), settings))
        for checkpoint in ground.checkpoints:
            say(f"dreamed by {checkpoint}")
        if not is_loopback(address.host):
            say("WARNING: other machines reach this server, and nothing is encrypted; whoever has the address plays.")
        say(f"open {address.url(listener.getsockname()[1])}   (Ctrl-C ends)")
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn has ended in order and passes it on
            pass
    say("ended; recordings are kept in the run's folder `played`")


def bind(address: Address) -> socket.socket:
    """A socket that has the port, without listening yet. Raises ValueError when it cannot be had."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"port {address.port} of {address.host} is in use: choose another with --port (0 takes any free one)"
            ) from None
        raise ValueError(f"{address.host}:{address.port} cannot be opened ({error.strerror or error})") from None
    return listener


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
