"""`unimodel play` on the command line: what it refuses before it opens a port, and how it ends.

Run: pytest tests/world/test_play_cli.py
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from lived_worlds import announced
from play_server import FORWARD, PlayClient
from tiny_run import TinyRun, command, start, tiny_run
from websockets.sync.client import connect

from data_pipelines.shards.verify import verify_dataset


def _nowhere(folder: Path) -> Path:
    return folder / "nowhere"


def _without_stage_3(folder: Path) -> Path:
    run = tiny_run(folder, stages=("masked",))
    run.run.store_config(run.config)
    return run.run.path


def _untrained(folder: Path) -> Path:
    run = tiny_run(folder, stages=("interactive",))
    run.run.store_config(run.config)
    return run.run.path


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (_nowhere, "is not a run folder"),
        (_without_stage_3, "none of its stages was trained on interaction sequences"),
        (_untrained, "stage 'interactive' is not finished"),
    ],
)
def test_a_run_that_cannot_be_played_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], Path], what: str
) -> None:
    result = command("play", str(make(tmp_path)), "--port", "0")
    assert result.returncode == 2 and what in result.stderr and result.stderr.count("\n") == 1
    assert "http://" not in result.stdout


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--host", "0.0.0.0"), "say --expose if that is meant"),
        (("--host", "not.a.host.invalid"), "--expose"),
        (("--token", "short"), "8 to 100"),
        (("--token", "with a space in it"), "8 to 100"),
        (("--fps", "1000"), "between 0.2 and 60"),
        (("--passes", "0"), "between 1 and 64"),
        (("--stage", "nothing"), "its stages are interactive"),
    ],
)
def test_an_unsafe_or_impossible_choice_is_refused(wild_run: TinyRun, options: tuple[str, ...], what: str) -> None:
    result = command("play", str(wild_run.run.path), "--port", "0", *options)
    assert result.returncode == 2 and what in result.stderr and "Traceback" not in result.stderr


def test_a_port_in_use_is_told(wild_run: TinyRun) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = command("play", str(wild_run.run.path), "--port", str(port))
    assert result.returncode == 2 and f"port {port} of 127.0.0.1 is in use" in result.stderr


def test_ctrl_c_ends_it_in_order_and_the_token_is_told_once(wild_run: TinyRun) -> None:
    process = start("play", str(wild_run.run.path), "--port", "0")
    try:
        said = announced(process)
        with connect(f"ws://127.0.0.1:{said.port}/ws", proxy=None) as socket_:
            client = PlayClient(socket_)
            client.say("hello", token=said.token)
            client.start()
            client.say("record", on=True)
            client.tap(FORWARD)
            process.send_signal(signal.SIGINT)
            code, _ = client.closed()
            assert code in (1001, 1012)
        out, err = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 0 and err == "" and "what was recorded is in" in out
    assert (said.printed + out).count(said.token) == 1
    newest = max((wild_run.run.path / "played").iterdir(), key=lambda folder: folder.stat().st_mtime)
    assert verify_dataset(newest).ok
