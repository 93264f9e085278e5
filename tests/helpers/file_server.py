"""A web server with ranges of bytes over a folder that can be slow, fail and lie, for real HTTP tests.

As a process of its own, until its input closes: python file_server.py FOLDER LATENCY_SECONDS FAILURE_SHARE
"""

from __future__ import annotations

import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAILURES = ("503", "reset", "cut", "short")


@dataclass
class Faults:
    """What goes wrong from now on, and what was asked for."""

    latency_seconds: float = 0.0
    failure_share: float = 0.0
    kinds: tuple[str, ...] = FAILURES
    status: int = 0
    """Answers everything with it when not 0."""
    has_ranges: bool = True
    hangs_at: str = ""
    """Files whose names hold it are not answered for half a minute."""
    asked: Counter[str] = field(default_factory=Counter)
    """By "path first-last" ("path" for whole files), answered well or not."""
    failed: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    chooser: random.Random = field(default_factory=lambda: random.Random(0))
    address: str = ""

    def next_failure(self) -> str:
        """One of `kinds`, or nothing."""
        if self.chooser.random() >= self.failure_share:
            return ""
        self.failed += 1
        return self.chooser.choice(self.kinds)


class FileServer(ThreadingHTTPServer):
    """What its handlers look at."""

    faults: Faults
    folder: Path
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request, client_address  # clients that were killed


class FileHandler(BaseHTTPRequestHandler):
    """Gives files and parts of them."""

    protocol_version = "HTTP/1.1"
    server: FileServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        del format, args

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        faults, path = self.server.faults, self.server.folder / self.path.lstrip("/")
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        name = self.path.lstrip("/") + (f" {ranged[1]}-{ranged[2]}" if ranged else "")
        faults.asked[name] += 1
        time.sleep(30.0 if faults.hangs_at and faults.hangs_at in name else faults.latency_seconds)
        failure = faults.next_failure()
        if faults.status or failure == "503":
            self.answer(faults.status or 503, b"")
        elif failure == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif not path.is_file():
            self.answer(404, b"")
        else:
            self._send(path, ranged if faults.has_ranges else None, failure)
            faults.answered[name] += not failure

    def _send(self, path: Path, ranged: re.Match[str] | None, failure: str) -> None:
        size = path.stat().st_size
        start = int(ranged[1]) if ranged else 0
        stop = min(int(ranged[2] or size) + 1, size) if ranged else size
        if start >= size and ranged:
            self.answer(416, b"")
            return
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(stop - start)
        if failure == "short":  # well formed, and too little: only whoever counts finds out
            content = content[: len(content) // 2]
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        if failure == "cut":
            content = content[: len(content) // 2]
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def file_server(folder: Path, faults: Faults | None = None) -> Iterator[Faults]:
    """Serves `folder` on loopback until the block ends."""
    server = FileServer(("127.0.0.1", 0), FileHandler)
    server.folder, server.faults = folder, faults or Faults()
    server.faults.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.faults
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    with file_server(Path(sys.argv[1]), Faults(float(sys.argv[2]), float(sys.argv[3]))) as serving:
        print(serving.address, flush=True)
        sys.stdin.read()
