"""A small server that speaks the part of the Hugging Face Hub's protocol that an upload needs, for real HTTP tests."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class HubState:
    """What the server received: files of the one repository, LFS payloads by hash, tokens of all requests."""

    accepted_token: str
    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    drop: str = ""
    """Name of a file that the commit silently loses."""


class _Server(ThreadingHTTPServer):
    state: HubState


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def state(self) -> HubState:
        return self.server.state

    def log_message(self, format: str, *args: Any) -> None:
        del format, args

    def answer(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_PUT(self) -> None:
        self.state.objects[self.path.rsplit("/", 1)[-1]] = self.body()
        self.answer({})

    def do_GET(self) -> None:
        self.answer({"id": "owner/name", "sha": "0" * 40, "siblings": [], "tags": []})

    def do_POST(self) -> None:
        content = self.body()
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.state.tokens.add(token)
        if token != self.state.accepted_token:
            self.answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            self.answer({"url": f"{self.state.address}/owner/name"})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith("safetensors") else "regular"}
                for file in json.loads(content)["files"]
            ]
            self.answer({"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(content)["objects"]
            upload = [
                {**w, "actions": {"upload": {"href": f"{self.state.address}/lfs/{w['oid']}", "header": {}}}}
                for w in wanted
            ]
            self.answer({"transfer": "basic", "objects": upload})
        elif "/commit/" in self.path:
            self.commit(content)
            self.answer(
                {
                    "commitOid": "0" * 40,
                    "commitUrl": f"{self.state.address}/owner/name/commit/{'0' * 40}",
                    "success": True,
                }
            )
        elif "/paths-info/" in self.path:
            self.answer([{"type": "file", "path": p, "size": len(c), "oid": "0"} for p, c in self.state.files.items()])
        else:
            self.answer({})

    def commit(self, content: bytes) -> None:
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.state.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                payload = self.state.objects[value["oid"]]
                assert hashlib.sha256(payload).hexdigest() == value["oid"]
                self.state.files[value["path"]] = payload
        self.state.files.pop(self.state.drop, None)


@contextmanager
def hub_server(accepted_token: str) -> Iterator[HubState]:
    """Serves on loopback until the block ends; every request must bear `accepted_token`."""
    server = _Server(("127.0.0.1", 0), _Handler)
    state = server.state = HubState(accepted_token, f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
