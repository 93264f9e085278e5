"""An S3-compatible store (moto) that holds a folder as a bucket and can be slow and fail.

As a process of its own, until its input closes: python object_store.py FOLDER LATENCY_SECONDS FAILURE_SHARE
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from file_server import Faults

BUCKET = "bucket"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def object_store(folder: Path, faults: Faults | None = None) -> Iterator[Faults]:
    """Serves s3://bucket on loopback until the block ends; clients find it by AWS_ENDPOINT_URL."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    faults = faults or Faults()
    healthy = Faults(address="")
    application = _Faulty(DomainDispatcherApplication(create_backend_app), healthy)
    server = make_server("127.0.0.1", 0, application, threaded=True)
    faults.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ.update(CREDENTIALS)
    client = boto3.client("s3", endpoint_url=faults.address)
    client.create_bucket(Bucket=BUCKET)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.put_object(Bucket=BUCKET, Key=str(path.relative_to(folder)), Body=path.read_bytes())
    application.faults = faults
    try:
        yield faults
    finally:
        server.shutdown()
        server.server_close()


class _Faulty:
    """A WSGI application in front of another."""

    def __init__(self, inner: Callable[..., Iterable[bytes]], faults: Faults) -> None:
        self.inner, self.faults = inner, faults

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        ranged = environ.get("HTTP_RANGE", "").removeprefix("bytes=")
        self.faults.asked[f"{environ['PATH_INFO']} {ranged}".strip()] += 1
        time.sleep(self.faults.latency_seconds)
        failure = self.faults.next_failure()
        if failure == "503" or self.faults.status:
            start_response(f"{self.faults.status or 503} Slow Down", [("Content-Length", "0")])
            return [b""]
        if failure == "reset":
            start_response("200 OK", [("Content-Length", "100")])
            return _cut(b"")
        content = b"".join(self.inner(environ, start_response))
        # "cut" and "short" alike: S3 itself always announces the true length.
        return _cut(content) if failure and environ["REQUEST_METHOD"] == "GET" else [content]


def _cut(content: bytes) -> Iterator[bytes]:
    yield content[: len(content) // 2]
    raise RuntimeError("on purpose")  # makes this server close the connection


if __name__ == "__main__":
    with object_store(Path(sys.argv[1]), Faults(float(sys.argv[2]), float(sys.argv[3]))) as serving:
        print(serving.address, flush=True)
        sys.stdin.read()
