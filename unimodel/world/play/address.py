"""Where a server is reached, and by whom."""

from __future__ import annotations

import errno
import re
import secrets
import socket
from dataclasses import dataclass
from ipaddress import ip_address

TOKEN = re.compile(r"[A-Za-z0-9_-]{8,100}")
EVERYWHERE = ("0.0.0.0", "::")
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


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
        host = socket.gethostname() if self.host in EVERYWHERE else self.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{port}/#{self.token}"


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


def is_loopback(host: str) -> bool:
    """Whether an address or name is of this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK_NAMES
