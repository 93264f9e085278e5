"""A play server on loopback with real clients: who comes in, what each may do, and that nobody disturbs another.

Run: pytest tests/world/test_play_server.py
"""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image
from play_server import DONE, FORWARD, KEYS, LEFT, RIGHT, TOKEN, PlayServer, play_server
from websockets.exceptions import InvalidStatus

from data_pipelines.shards.verify import verify_dataset
from unimodel.run_folder import read_json_lines
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.play.connection import NO_ENTRY

TRY_LATER = 1013


# --- playing --------------------------------------------------------------------------------------------------------


def test_a_client_is_welcomed_and_plays(server: PlayServer, wild: LoadedRun) -> None:
    with server.client() as client:
        welcome = client.welcome
        assert welcome["role"] == "player" and welcome["real"] == "BabyAI-GoToLocalS8N3-v0"
        assert str(wild.run.path) in welcome["dreamed_by"] and "interactive" in welcome["dreamed_by"]
        assert [control["name"] for control in welcome["controls"]][:3] == ["left", "right", "forward"]
        start = client.start()
        dream, real = (_picture(text) for text in start["pictures"])
        assert dream.shape == real.shape == (32, 32, 3) and start["psnr"] is not None
        frame = client.tap(FORWARD)
        assert (frame["step"], frame["action"]) == (1, FORWARD) and frame["pictures"][0] != start["pictures"][0]
        client.tap(LEFT)
        assert client.tap(LEFT)["measured"]["p95_ms"] > 0


def _picture(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_rewinding_shows_what_was_and_acting_there_begins_a_branch(server: PlayServer) -> None:
    with server.client() as client:
        client.start()
        shown = [client.tap(action)["pictures"] for action in KEYS]
        client.say("rewind", step=3)
        assert client.hear("frame")["pictures"] == shown[2]
        client.say("key", action=RIGHT, down=True)
        state = client.hear("state", until=lambda state: len(state["branches"]) == 2)
        assert state["branches"][1] == {"number": 1, "parent": 0, "fork": 3, "tip": 4}
        client.say("release")
        client.say("switch", branch=0)
        assert client.hear("frame", until=lambda frame: frame["branch"] == 0)["pictures"] == shown[-1]


def test_what_cannot_be_done_is_told_and_the_world_goes_on(server: PlayServer) -> None:
    with server.client() as client:
        client.start()
        for wish, what in (
            ({"kind": "key", "action": 7, "down": True}, "actions 0 to 6"),
            ({"kind": "rewind", "step": 5}, "steps 0 to 0"),
            ({"kind": "restart", "episode": 1000}, "episodes 0 to"),
            ({"kind": "text", "text": "on " * 120}, "tokens"),
            ({"kind": "compare", "on": True}, "--compare"),
        ):
            client.say(**wish)
            notice = client.hear("notice")
            assert notice["level"] == "error" and what in notice["text"]
        assert client.tap(FORWARD)["step"] == 1


def test_a_recording_is_told_and_verifies(server: PlayServer) -> None:
    with server.client() as client:
        client.start()
        client.say("record", on=True)
        client.play(KEYS[:3])
        client.say("record", on=False)
        state = client.hear("state", until=lambda state: state["recording"]["folder"])
        assert verify_dataset(Path(state["recording"]["folder"])).ok


def test_eight_clients_at_once_have_the_worlds_that_each_has_alone(server: PlayServer) -> None:
    ways = [np.random.default_rng(seed).integers(0, 7, 12).tolist() for seed in range(8)]

    def alone(way: list[int]) -> list[str]:
        with server.client() as client:
            client.start()
            return client.play(way)

    expected = [alone(way) for way in ways]
    together = threading.Barrier(len(ways))

    def at_once(way: list[int]) -> list[str]:
        with server.client() as client:
            client.start()
            together.wait()
            return client.play(way)

    with ThreadPoolExecutor(len(ways)) as pool:
        assert list(pool.map(at_once, ways)) == expected
    assert len({tuple(pictures) for pictures in expected}) == len(ways)


def test_a_slow_reader_misses_frames_but_not_the_newest(wild: LoadedRun) -> None:
    with play_server(wild, frames_in_flight=1) as server, server.client() as client:
        client.start()
        client.say("mode", mode="real_time")
        first = json.loads(client.socket.recv())
        while first["type"] != "frame":
            first = json.loads(client.socket.recv())
        room = next(iter(_rooms(server)))
        while room.session.dropped < 3:  # frames that nobody acknowledges are not sent
            pass
        client.say("ack", frame=first["id"])
        assert client.hear("frame")["step"] >= first["step"] + 3


def _rooms(server: PlayServer) -> list:
    return list(server.hub.lobby._rooms.values())


# --- who comes in ---------------------------------------------------------------------------------------------------


def test_without_the_token_nobody_comes_in(server: PlayServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with server.client(hello=False) as client:
        client.say("hello", token="another-token")
        code, reason = client.closed()
        assert code == NO_ENTRY and "token is wrong" in reason
    with server.client(hello=False) as client:
        client.say("key", action=0, down=True)
        assert client.closed()[0] == NO_ENTRY
    with server.client(hello=False) as client:
        client.say("hello", token="ÿ" * 20)
        assert client.closed()[0] == NO_ENTRY
    with server.client():
        pass
    ours = [record.getMessage() for record in caplog.records if record.name.split(".")[0] in ("unimodel", "uvicorn")]
    assert not any(TOKEN in line or "another-token" in line for line in ours)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
    ],
)
def test_other_pages_are_turned_away(server: PlayServer, headers: dict) -> None:
    with pytest.raises(InvalidStatus) as refused, server.client(**headers):
        pass
    assert refused.value.response.status_code == 403


def test_its_own_page_is_let_in(server: PlayServer) -> None:
    with server.client(origin=f"http://127.0.0.1:{server.port}") as client:
        assert client.start()["step"] == 0


def test_the_page_runs_nothing_from_elsewhere(server: PlayServer) -> None:
    with urlopen(server.url) as answer:
        policy, page = answer.headers["Content-Security-Policy"], answer.read().decode()
        assert (
            answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Referrer-Policy"] == "no-referrer"
        )
        assert "Server" not in answer.headers
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for name in ("play.css", "play.js", "keys.js", "timeline.js", "screen.js", "icon.svg"):
        assert name in page or name in urlopen(f"{server.url}play.js").read().decode()
        text = urlopen(server.url + name).read().decode().replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text and "http://" not in text


@pytest.mark.parametrize("path", ["docs", "openapi.json", "../server.py", "%2e%2e/server.py", "nothing"])
def test_nothing_but_the_page_is_served(server: PlayServer, path: str) -> None:
    with pytest.raises(HTTPError) as refused:
        urlopen(server.url + path)
    assert refused.value.code == 404


def test_another_name_for_this_machine_is_not_answered(server: PlayServer) -> None:
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(server.url, headers={"Host": "rebound.example"}))
    assert refused.value.code == 403


def test_one_client_too_many_is_told_to_come_later(wild: LoadedRun) -> None:
    with play_server(wild, max_clients=2) as server, server.client() as first, server.client():
        with server.client(hello=False) as third:
            code, reason = third.closed()
            assert code == TRY_LATER and "2 clients" in reason
        first.start()
        assert first.tap(LEFT)["step"] == 1


# --- one world, two clients -----------------------------------------------------------------------------------------


def test_a_second_client_may_watch_or_take_over(server: PlayServer) -> None:
    with server.client() as first, server.client(hello=False) as second:
        first.start()
        session = first.welcome["session"]
        second.say("hello", token=TOKEN, session=session)
        second.hear("occupied")
        assert second.enter(session, "watch")["role"] == "watcher"
        second.start()
        frame = first.tap(FORWARD)
        assert second.hear("frame", until=lambda f: f["step"] == 1)["pictures"] == frame["pictures"]
        second.say("key", action=LEFT, down=True)
        assert second.hear("notice")["code"] == "watching"

        assert second.enter(session, "take_over")["role"] == "player"
        assert first.hear("notice")["code"] == "taken_over" and first.hear("welcome")["role"] == "watcher"
        assert second.tap(LEFT)["step"] == 2
        first.say("key", action=LEFT, down=True)
        assert first.hear("notice")["code"] == "watching"


def test_a_page_that_is_loaded_again_finds_its_world_with_no_key_down(server: PlayServer) -> None:
    with server.client() as client:
        client.start()
        shown = client.play(KEYS[:3])
        client.say("key", action=FORWARD, down=True)
        client.hear("frame")
        session = client.welcome["session"]
    with server.client(hello=False) as again:
        assert again.enter(session)["session"] == session
        frame = again.hear("frame")
        assert frame["step"] == 4
        again.say("rewind", step=3)
        assert again.hear("frame", until=lambda f: f["step"] == 3)["pictures"][0] == shown[-1]


def test_a_world_that_is_gone_is_replaced_and_that_is_told(server: PlayServer) -> None:
    with server.client(hello=False) as client:
        client.say("hello", token=TOKEN, session="nobody-has-this")
        assert client.hear("notice")["code"] == "new_world" and client.hear("frame")["step"] == 0


# --- two checkpoints ------------------------------------------------------------------------------------------------


def test_a_blind_trial_hides_the_sides_until_the_vote_and_keeps_it(wild: LoadedRun, other: LoadedRun) -> None:
    names = {str(wild.run.path), str(other.run.path)}
    before = len(read_json_lines(wild.run.path / "votes.jsonl"))
    with play_server(wild, other) as server, server.client() as client:
        client.start()
        lefts = set()
        for number in range(1, 9):
            client.say("compare", on=True)
            state = client.hear("state", until=lambda s, n=number: s["trial"] and s["trial"]["number"] == n)
            assert state["panels"] == ["left", "right"] and state["trial"]["result"] is None
            client.say("vote", choice="left")
            assert "few steps" in client.hear("notice")["text"]
            frame = client.tap(FORWARD)
            assert not any(name in json.dumps([state, frame]) for name in names)
            client.say("vote", choice="left")
            result = client.hear("state", until=lambda s: s["trial"]["result"])["trial"]["result"]
            assert {result["left"].split(",")[0], result["right"].split(",")[0]} == names
            assert sum(result["wins"].values()) + result["same"] == before + number
            lefts.add(result["left"])
        assert len(lefts) == 2, "eight trials with the same side (one in 128 by chance: look at the shuffle)"
        client.say("compare", on=False)
        assert client.hear("state", until=lambda s: s["trial"] is None)["panels"] == ["dream", "real"]
    votes = read_json_lines(wild.run.path / "votes.jsonl")[before:]
    assert len(votes) == 8 and all(vote["choice"] == "left" and vote["steps"] == 1 for vote in votes)


def test_both_sides_of_a_trial_get_the_same_keys(wild: LoadedRun, other: LoadedRun) -> None:
    with play_server(wild, other) as server, server.client() as client:
        client.start()
        client.say("compare", on=True)
        episode = client.hear("state", until=lambda s: s["trial"])["episode"]
        shown = [client.tap(action)["pictures"] for action in KEYS]
        client.say("vote", choice="same")
        result = client.hear("state", until=lambda s: s["trial"]["result"])["trial"]["result"]
        mine = 0 if result["left"].startswith(str(wild.run.path)) else 1
        client.say("compare", on=False)
        assert client.hear("state", until=lambda s: s["trial"] is None)["episode"] == episode
        client.hear("frame", until=lambda frame: frame["step"] == 0)
        alone = client.play(KEYS)
        assert [pair[mine] for pair in shown] == alone and [pair[1 - mine] for pair in shown] != alone


def test_a_step_without_a_key_does_nothing_to_the_real_world(server: PlayServer) -> None:
    with server.client() as client:
        real = client.start()["pictures"][1]
        client.say("step")
        frame = client.hear("frame", until=lambda frame: frame["step"] == 1)
        assert frame["action"] == DONE and frame["pictures"][1] == real
