"""A play server and those who flood it, are silent, send nonsense or never come back.

Run: pytest tests/world/test_play_server_floods.py
"""

from __future__ import annotations

import contextlib
import json
import random

from play_server import FORWARD, KEYS, LEFT, TOKEN, PlayClient, PlayServer, play_server
from websockets.exceptions import ConnectionClosed

from data_pipelines.shards.verify import verify_dataset
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.play.connection import IDLE, POLICY, TOO_BIG, TOO_SLOW


def test_a_thousand_malformed_messages_change_nothing_for_anybody(wild: LoadedRun) -> None:
    """All of them are looked at: this server has no limit on their number."""
    with play_server(wild, messages_per_second=1e6, burst_messages=1e6, max_clients=24) as server:
        with server.client() as before:
            before.start()
            expected = before.play(KEYS)
        with server.client() as bystander:
            bystander.start()
            shown, left, rng = [], 1000, random.Random(7)
            while left:
                with server.client() as hostile:
                    left -= _attack(hostile, rng, left)
                if len(shown) < len(KEYS):
                    shown.append(bystander.tap(KEYS[len(shown)])["pictures"][0])
            shown += bystander.play(KEYS[len(shown) :])
            assert shown == expected
        with server.client() as after:
            after.start()
            assert after.play(KEYS) == expected


WELL_FORMED = [
    {"type": "key", "action": 2, "down": True},
    {"type": "rewind", "step": 0},
    {"type": "switch", "branch": 0},
    {"type": "mode", "mode": "real_time"},
    {"type": "text", "text": "go"},
    {"type": "restart", "episode": 1},
    {"type": "branch"},
    {"type": "record", "on": True},
    {"type": "vote", "choice": "left"},
    {"type": "ack", "frame": 1},
    {"type": "hello", "token": TOKEN, "session": None, "joining": "ask"},
]
STRANGE = [None, -1, 1 << 70, 1e308, "x", [], {}, [[]], True, "\0", "left", 0, 3]


def _attack(client: PlayClient, rng: random.Random, most: int) -> int:
    """Sends up to `most` messages, nonsense and nearly sense, and waits until the server has looked at all or ended the
    connection; how many were sent."""
    for sent in range(most):
        try:
            match rng.randrange(60):
                case 0:
                    client.socket.send("x" * 5000)
                case kind if kind < 10:
                    client.socket.send(rng.randbytes(rng.randrange(200)))
                case kind if kind < 20:
                    client.socket.send("".join(chr(rng.randrange(1, 0xD7FF)) for _ in range(rng.randrange(300))))
                case kind if kind < 30:
                    client.socket.send("[" * rng.randrange(4000))
                case _:
                    message = dict(rng.choice(WELL_FORMED))
                    message[rng.choice(list(message))] = rng.choice(STRANGE)
                    client.socket.send(json.dumps(message))
        except ConnectionClosed:
            return max(1, sent)
    with contextlib.suppress(ConnectionClosed):
        client.say("vote", choice="left")
        client.hear("notice", until=lambda notice: "no trial" in notice["text"])
    return most


def test_a_message_that_is_too_long_ends_the_connection(server: PlayServer) -> None:
    with server.client() as client:
        client.socket.send(json.dumps({"type": "text", "text": "x" * 5000}))
        assert client.closed()[0] == TOO_BIG


def test_a_flood_is_answered_once_and_then_ended(wild: LoadedRun) -> None:
    with play_server(wild, messages_per_second=5, burst_messages=20, patience_messages=50) as server:
        with server.client() as flood, server.client() as other:
            other.start()
            with contextlib.suppress(ConnectionClosed):  # where the server is faster than the flood
                for _ in range(200):
                    flood.say("key", action=LEFT, down=True)
            code, reason = flood.closed()
            assert code == POLICY and "too many" in reason
            assert other.tap(FORWARD)["step"] == 1


def test_who_says_nothing_at_first_is_sent_away(wild: LoadedRun) -> None:
    with play_server(wild, hello_seconds=0.05, sweep_seconds=0.02) as server, server.client(hello=False) as client:
        assert client.closed()[0] == TOO_SLOW


def test_a_world_stops_when_its_page_does_not_answer(wild: LoadedRun) -> None:
    with play_server(wild, silence_seconds=0.1, sweep_seconds=0.02) as server, server.client() as client:
        client.start()
        client.say("mode", mode="real_time")
        while True:  # nothing is acknowledged
            message = json.loads(client.socket.recv())
            if message["type"] == "state" and message["paused"]:
                break
        assert message["why_paused"] == "the page does not answer"


def test_a_world_stops_and_its_client_is_sent_away_when_no_key_is_pressed(wild: LoadedRun) -> None:
    with play_server(wild, idle_pause_seconds=0.2, idle_close_seconds=0.6, sweep_seconds=0.02) as server:
        with server.client() as client:
            client.start()
            client.say("mode", mode="real_time")
            state = client.hear("state", until=lambda state: state["paused"])
            assert "no key" in state["why_paused"]
            assert client.closed()[0] == IDLE


def test_a_world_that_nobody_comes_back_to_is_closed_and_its_recording_kept(wild: LoadedRun) -> None:
    before = set((wild.run.path / "played").glob("*/index.json"))
    with play_server(wild, keep_seconds=0.05, sweep_seconds=0.02) as server:
        with server.client() as client:
            client.start()
            client.say("record", on=True)
            client.play(KEYS[:2])
        while server.hub.lobby._rooms:
            pass
        (manifest,) = set((wild.run.path / "played").glob("*/index.json")) - before
        assert verify_dataset(manifest.parent).ok


def test_worlds_that_wait_make_room_for_new_ones(wild: LoadedRun) -> None:
    with play_server(wild, max_clients=2) as server:
        for _ in range(5):
            with server.client() as client:
                client.start()
        assert len(server.hub.lobby._rooms) <= 2
