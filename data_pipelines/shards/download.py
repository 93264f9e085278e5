"""Requests to a remote folder: a time limit each, the same again after a passing failure, never a short answer."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from data_pipelines.shards.storage import DAMAGED, StorageError

Answer = TypeVar("Answer")
_LOG = logging.getLogger(__name__)
_JITTER = random.SystemRandom()
"""Waiting times are no part of a run: no seed, and no two processes alike."""

PASSING_STATUSES = frozenset({408, 425, 429})
"""Of 4xx, those that mean: later."""
MAX_WRONG_ANSWERS = 8
"""Answers of a wrong size or hash that are put down to the way before the file itself is held to be damaged."""
TOLD_AFTER_TRIES = 4


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How long to wait and how often to ask again."""

    request_seconds: float = 60.0
    patience_seconds: float = 300.0
    """Over all tries of one request; then the run stops with an error."""
    first_delay_seconds: float = 0.1
    """Upper bound of the random wait before the second try; it doubles with every try."""
    longest_delay_seconds: float = 10.0


class WrongAnswerError(Exception):
    """The bytes that came are not those that were asked for."""


class Downloads:
    """Reads files of one remote folder, from any thread; a forked child connects anew."""

    def __init__(self, folder: str, limits: RequestLimits) -> None:
        self._folder, self._limits = folder, limits
        self._connection: tuple[int, Any, str] | None = None

    def whole(self, file: str, check: Callable[[bytes], object] = len) -> bytes:
        """A whole file. `check` raises WrongAnswerError; what it still refuses in the end is a ValueError here."""

        def ask() -> bytes:
            content = self._request(file, None, None)
            check(content)
            return content

        return self._patiently(file, ask)

    def part(self, file: str, offset: int, size: int, check: Callable[[bytes], object] = len) -> bytes:
        """`size` bytes from `offset` on, exactly."""

        def ask() -> bytes:
            content = self._request(file, offset, offset + size)
            if len(content) > size:
                raise StorageError(f"{self._folder}/{file}: this server gives whole files only, no ranges of bytes")
            if len(content) < size:
                raise WrongAnswerError(f"{len(content)} of {size} bytes came from byte {offset} on")
            check(content)
            return content

        return self._patiently(file, ask)

    def size_bytes(self, file: str) -> int:
        """Of a file. Raises StorageError when the server does not say."""
        filesystem, root = self._connected()
        size = self._patiently(file, lambda: self._within_time(filesystem, "info", f"{root}/{file}"))["size"]
        if size is None:
            raise StorageError(f"{self._folder}/{file}: the server does not say how large it is")
        return int(size)

    def names(self) -> list[str]:
        """Files and folders directly within; empty when there is no such folder."""
        filesystem, root = self._connected()
        try:
            found = self._patiently("", lambda: self._within_time(filesystem, "ls", root, detail=False))
        except FileNotFoundError:
            return []
        return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in found})

    def _request(self, file: str, start: int | None, end: int | None) -> bytes:
        filesystem, root = self._connected()
        return self._within_time(filesystem, "cat_file", f"{root}/{file}", start=start, end=end)

    def _within_time(self, filesystem: Any, method: str, *arguments: Any, **options: Any) -> Any:
        """Filesystems that are not asynchronous (hf://) bring time limits of their own."""
        if isinstance(filesystem, AsyncFileSystem):
            call = getattr(filesystem, f"_{method}")
            return sync(filesystem.loop, call, *arguments, timeout=self._limits.request_seconds, **options)
        return getattr(filesystem, method)(*arguments, **options)

    def _connected(self) -> tuple[Any, str]:
        if self._connection is None or self._connection[0] != os.getpid():
            protocol = self._folder.partition("://")[0]
            try:
                self._connection = (os.getpid(), *fsspec.url_to_fs(self._folder))
            except ImportError as error:
                extra = (
                    "pip install 'unimodel[s3]'" if protocol in ("s3", "s3a") else f"install what it names ({error})"
                )
                raise ValueError(f"{self._folder}: to read {protocol}:// {extra}") from None
            except ValueError as error:
                raise ValueError(f"{self._folder}: cannot read {protocol}:// ({error})") from None
        return self._connection[1], self._connection[2]

    def _patiently(self, file: str, ask: Callable[[], Answer]) -> Answer:
        self._connected()  # what is wrong with the address is no failure of a request
        where = f"{self._folder}/{file}".rstrip("/")
        started = time.monotonic()
        wrong_answers = 0
        for tries, delay in enumerate(self._delays(), start=1):
            try:
                return ask()
            except WrongAnswerError as error:
                wrong_answers += 1
                if wrong_answers == MAX_WRONG_ANSWERS:
                    raise ValueError(f"{where}: {error}, {wrong_answers} times: {DAMAGED}") from None
                said = str(error)
            except Exception as error:
                _raise_if_permanent(where, error)
                said = f"{type(error).__name__}: {_one_line(error)}"
            waited = time.monotonic() - started
            if waited + delay > self._limits.patience_seconds:
                raise StorageError(
                    f"{where}: still failing after {tries} tries in {waited:.0f} s ({said}): check the network and the "
                    "store, then run the same command again"
                ) from None
            if tries == TOLD_AFTER_TRIES:
                _LOG.warning("%s: %s; asking again for up to %.0f s", where, said, self._limits.patience_seconds)
            time.sleep(delay)
        raise AssertionError("unreachable: the delays never end")

    def _delays(self) -> Iterator[float]:
        """Exponential backoff with full jitter."""
        for doublings in itertools.count():
            bound = self._limits.first_delay_seconds * 2.0 ** min(doublings, 30)
            yield _JITTER.uniform(0.0, min(bound, self._limits.longest_delay_seconds))


def _raise_if_permanent(where: str, error: Exception) -> None:
    """Returns when trying again may help."""
    causes = _causes(error)
    status = next((status for cause in causes if (status := _status(cause))), None)
    names = {type(cause).__name__ for cause in causes}
    refused = any(name.endswith("CredentialsError") for name in names)
    if isinstance(error, StorageError):
        raise error
    if status in (401, 403) or isinstance(error, PermissionError) or refused:
        raise PermissionError(
            f"{where}: access refused ({status or type(error).__name__}): check the address and the credentials "
            "in the environment (AWS_PROFILE, AWS_ACCESS_KEY_ID, HF_TOKEN; FSSPEC_S3_ANON=true for a public bucket)"
        ) from None
    if status in (404, 410) or isinstance(error, FileNotFoundError):
        raise FileNotFoundError(
            f"{where} does not exist ({status or 404}): check the address and what was uploaded"
        ) from None
    if status == 416:
        raise ValueError(
            f"{where}: it ends before the bytes that were asked for (416), it is truncated: {DAMAGED}"
        ) from None
    if status is not None and 400 <= status < 500 and status not in PASSING_STATUSES:
        raise StorageError(f"{where}: refused with status {status} ({_one_line(error)})") from None
    ours = (TypeError, AttributeError, LookupError, ValueError, ImportError, AssertionError, NotImplementedError)
    if isinstance(error, ours) and not isinstance(error, OSError | asyncio.TimeoutError):
        raise StorageError(f"{where}: cannot be asked for ({type(error).__name__}: {_one_line(error)})") from error


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    here: BaseException | None = error
    while here is not None and here not in chain:
        chain.append(here)
        here = here.__cause__ or here.__context__
    return chain


def _status(error: BaseException) -> int | None:
    """HTTP status, as aiohttp, botocore and httpx carry it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(error, "status", None) or getattr(response, "status_code", response)
    return status if isinstance(status, int) and status >= 300 else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
