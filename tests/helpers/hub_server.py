"""As much of the Hugging Face Hub's HTTP interface as reading a data set needs, over a local folder.

As a process of its own, until its input closes: python hub_server.py FOLDER FAILURE_SHARE. FOLDER/OWNER/NAME is a
data set.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from file_server import Faults, FileHandler, FileServer

COMMIT = "1" * 40
REPOSITORY = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)")


class HubHandler(FileHandler):
    """Answers questions about repositories, and gives their files as `FileHandler` does."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if file := FILE.fullmatch(path):
            self.path = f"/{file[1]}/{file[2]}"
            super().do_GET()
        elif asked := REPOSITORY.fullmatch(path):
            folder = self.server.folder / asked[1]
            if not folder.is_dir():
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif asked[2] == "tree":
                self._tell_tree(folder, asked[4] or "")
            else:
                self._tell(
                    {"id": asked[1], "sha": COMMIT, "private": False, "siblings": [], "tags": [], "downloads": 0}
                )
        else:
            self.answer(404, b"")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = REPOSITORY.fullmatch(unquote(urlsplit(self.path).path))
        if asked is None or asked[2] != "paths-info":
            self.answer(404, b"")
            return
        paths = json.loads(content)["paths"] if content.startswith("{") else parse_qs(content).get("paths", [])
        folder = self.server.folder / asked[1]
        self._tell([_about(folder, folder / path) for path in paths if (folder / path).exists()])

    def _tell_tree(self, folder: Path, path: str) -> None:
        if not (folder / path).is_dir():
            self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        self._tell([_about(folder, found) for found in sorted((folder / path).iterdir())])

    def _tell(self, what: Any) -> None:
        self.answer(200, json.dumps(what).encode(), {"Content-Type": "application/json"})


def _about(folder: Path, path: Path) -> dict[str, Any]:
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": COMMIT, "size": 0}
    return {"type": "file", "path": name, "oid": COMMIT, "size": path.stat().st_size}


if __name__ == "__main__":
    server = FileServer(("127.0.0.1", 0), HubHandler)
    server.folder, server.faults = Path(sys.argv[1]), Faults(failure_share=float(sys.argv[2]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()
