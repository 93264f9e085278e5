"""One world of the disk for all who come: people and bots act in turn, come and go, and find it again.

Run: pytest tests/world/test_shared_world.py
"""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from lived_worlds import announced, past_of
from play_server import FORWARD, LEFT, RIGHT, PlayClient, PlayServer, shared_server
from tiny_run import TinyRun, command, start
from websockets.sync.client import connect

from unimodel.training.loaded_run import LoadedRun
from unimodel.world.play.clock import Due
from unimodel.world.play.controls import Controls
from unimodel.world.play.turns import Turn, Turns
from unimodel.world.sessions.catalogue import delete_world, world_folder
from unimodel.world.sessions.from_run import create_world

_numbers = itertools.count()


@pytest.fixture
def name(wild: LoadedRun) -> Iterator[str]:
    """Of a new world of the run."""
    new = f"world-{next(_numbers)}"
    create_world(wild, new)
    yield new
    for left in (new, f"{new}-whole"):
        if world_folder(wild.run, left).exists():
            delete_world(wild.run, left)


def enter(server: PlayServer, stack: Any, name: str) -> PlayClient:
    client = stack.enter_context(server.client(hello=False))
    client.enter(name=name)
    client.hear("frame")
    return client


def others_see(client: PlayClient, step: int) -> dict[str, Any]:
    return client.hear("frame", until=lambda frame: frame["step"] == step)


# --- whose turn it is -----------------------------------------------------------------------------------------------


def turns_of(*agents: str) -> Turns:
    turns = Turns(Controls.of(("left", "right", "forward", "done")), 0.1)
    for agent in agents:
        turns.join(agent)
    return turns


def taken(turns: Turns, now: float, *, ticking: bool) -> tuple[str | None, int] | float | None:
    turn = turns.take(now, ticking=ticking)
    return (turn.agent, turn.due.action) if isinstance(turn, Turn) else turn


@pytest.mark.parametrize("ticking", [True, False])
def test_whoever_has_waited_longest_acts_and_no_press_is_lost(ticking: bool) -> None:
    turns = turns_of("ada", "bob", "cleo")
    for agent, action in (("ada", 0), ("bob", 1), ("cleo", 2)):
        turns.of(agent).press(action, 1.0)
        turns.of(agent).release(action)
    order = [taken(turns, 1.0 + 0.2 * tick, ticking=ticking) for tick in range(3)]
    assert {agent for agent, _ in order} == {"ada", "bob", "cleo"}  # type: ignore[misc]
    assert all(action == {"ada": 0, "bob": 1, "cleo": 2}[agent] for agent, action in order)  # type: ignore[misc]
    first = order[0][0]  # type: ignore[index]
    for agent in ("ada", "bob", "cleo"):
        turns.of(agent).press(0, 2.0)
    assert taken(turns, 2.0, ticking=ticking) == (first, 0)


def test_one_that_keeps_pressing_does_not_shut_others_out() -> None:
    turns = turns_of("bot", "ada")
    turns.of("bot").press(0, 0.0)
    acted = []
    for tick in range(10):
        if tick == 4:
            turns.of("ada").press(1, 0.4)
            turns.of("ada").release(1)
        acted.append(taken(turns, 1.0 + 0.2 * tick, ticking=True))
    assert acted == [("bot", 0)] * 4 + [("ada", 1)] + [("bot", 0)] * 5


def test_time_goes_on_without_anybody_only_where_an_action_does_nothing() -> None:
    turns = turns_of("ada")
    assert taken(turns, 0.0, ticking=True) == (None, 3)
    assert taken(turns, 0.05, ticking=True) == pytest.approx(0.05)
    assert turns.take(0.05, ticking=False) is None
    turns.of("ada").ask_step()
    assert turns.take(0.05, ticking=False) == Turn("ada", Due(3, None))
    turns.leave("ada")
    assert turns.take(1.0, ticking=False) is None
    restless = Turns(Controls.of(("left", "right")), 0.1)
    assert restless.take(1.0, ticking=True) is None


# --- one world, several clients -------------------------------------------------------------------------------------


def test_people_and_a_bot_share_one_world(wild: LoadedRun, name: str) -> None:
    from contextlib import ExitStack

    with shared_server(wild, name) as server, ExitStack() as stack:
        ada, bot = enter(server, stack, "ada"), enter(server, stack, "bot")
        assert ada.welcome["world"] == bot.welcome["world"] == name
        assert (ada.welcome["you"], bot.welcome["you"]) == ("ada", "bot") and ada.welcome["role"] == "player"
        first = ada.tap(FORWARD)
        assert (first["agent"], first["action"], first["step"]) == ("ada", FORWARD, 1)
        assert others_see(bot, 1)["pictures"] == first["pictures"]
        second = bot.tap(LEFT)
        assert second["agent"] == "bot" and others_see(ada, 2)["pictures"] == second["pictures"]
        third = enter(server, stack, "ada")  # the name is taken
        assert third.welcome["you"] == "ada-1"
        state = ada.hear("state", until=lambda state: len(state["life"]["agents"]) == 3)
        assert state["life"]["agents"][2] == {"name": "ada-1", "since": 2} and state["step"] == 2
        third.enter(name="cleo")
        third.socket.close()
        state = ada.hear("state", until=lambda state: "cleo left." in state["life"]["notes"][0]["text"])
        assert [person["name"] for person in state["life"]["agents"]] == ["ada", "bot"]
        ada.say("text", text="go to the red ball")
        assert bot.hear("state", until=lambda state: state["mission"] == "go to the red ball")
        bot.tap(RIGHT)
        for wish in (
            {"kind": "rewind", "step": 0},
            {"kind": "branch"},
            {"kind": "restart"},
            {"kind": "record", "on": True},
        ):
            ada.say(**wish)
            assert "everybody's" in ada.hear("notice")["text"]
        ada.say("key", action=99, down=True)
        assert "actions 0 to 6" in ada.hear("notice")["text"]
    past = past_of(wild.run, name)
    assert [(tick.acts[0].agent, tick.acts[0].action) for tick in past.ticks] == [
        ("ada", FORWARD),
        ("bot", LEFT),
        ("bot", RIGHT),
    ]
    assert not past.here and past.mission(3)[0] == "go to the red ball"


def test_a_server_that_ended_goes_on_with_everybody_where_it_was(wild: LoadedRun, name: str) -> None:
    from contextlib import ExitStack

    create_world(wild, f"{name}-whole")
    keys = [FORWARD, LEFT, FORWARD, RIGHT, FORWARD, LEFT]
    with shared_server(wild, f"{name}-whole") as server, ExitStack() as stack:
        expected = enter(server, stack, "ada").play(keys)
    shown: list[str] = []
    for number, key in enumerate(keys):
        with shared_server(wild, name) as server, server.client(hello=False) as client:
            client.enter(session=f"{name}/ada")
            assert client.welcome["you"] == "ada"
            assert client.hear("frame")["step"] == number
            shown.append(client.tap(key)["pictures"][0])
    assert shown == expected
    past = past_of(wild.run, name)
    assert sum(entry.deed.kind == "open" for entry in past.notable) == len(keys)


def test_real_time_goes_on_by_itself_and_stops_when_all_have_gone(wild: LoadedRun, name: str) -> None:
    from contextlib import ExitStack

    with shared_server(wild, name) as server, ExitStack() as stack:
        ada = enter(server, stack, "ada")
        with server.client(hello=False) as bob:
            bob.enter(name="bob")
            bob.say("mode", mode="real_time")
            frame = ada.hear("frame", until=lambda frame: frame["step"] >= 3)
            assert frame["agent"] is None
            bob.say("key", action=LEFT, down=True)
            assert ada.hear("frame", until=lambda frame: frame["agent"] == "bob")["action"] == LEFT
        ada.hear("state", until=lambda state: len(state["life"]["agents"]) == 1 and not state["paused"])
        ada.hear("frame", until=lambda frame: frame["agent"] is None)
        ada.socket.close()
        with server.client(hello=False) as cleo:
            cleo.enter(name="cleo")
            state = cleo.hear("state")
            assert state["paused"] and state["why_paused"] == "nobody was there"


def test_a_world_that_was_deleted_says_so_to_all_and_shows_nothing_more(wild: LoadedRun, name: str) -> None:
    from contextlib import ExitStack

    with shared_server(wild, name) as server, ExitStack() as stack:
        ada, bob = enter(server, stack, "ada"), enter(server, stack, "bob")
        ada.tap(FORWARD)
        others_see(bob, 1)
        shutil.rmtree(world_folder(wild.run, name))
        ada.say("key", action=FORWARD, down=True)
        for client in (ada, bob):
            assert "was deleted or replaced" in client.hear("notice")["text"]
            assert client.hear("state")["paused"] in (True, False)
        with server.client(hello=False) as late:
            late.say("hello", token="a-token-for-tests", name="late")
            assert "Nobody can come in" in late.hear("notice")["text"]


# --- the command ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_served_is_refused_in_one_line(wild_run: TinyRun) -> None:
    run = str(wild_run.run.path)
    for arguments, what in (
        (("--world", "nowhere"), "has no world 'nowhere'"),
        (("--world", "x", "--compare", run), "choose one"),
    ):
        result = command("play", run, "--port", "0", *arguments)
        assert result.returncode and what in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_killed_server_comes_back_with_the_same_world_token_and_people(
    wild_run: TinyRun, wild: LoadedRun, name: str
) -> None:
    create_world(wild, f"{name}-whole")
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 3, 12).tolist()
    with shared_server(wild, f"{name}-whole") as server, server.client(hello=False) as alone:
        alone.enter(name="ada")
        expected = alone.play(keys)
    shown, tokens = [], set()
    for first in range(0, 12, 4):
        process = start("play", str(wild_run.run.path), "--world", name, "--port", "0", stderr=subprocess.STDOUT)
        try:
            said = announced(process)
            tokens.add(said.token)
            with connect(f"ws://127.0.0.1:{said.port}/ws", proxy=None) as socket:
                client = PlayClient(socket)
                client.say("hello", token=said.token, session=f"{name}/ada")
                assert client.hear("frame")["step"] == first
                shown += client.play(keys[first : first + 4])
                client.say("key", action=keys[0], down=True)  # it may be in the midst of a tick
                process.send_signal(signal.SIGKILL)
                process.wait()
        finally:
            process.kill()
        tick = past_of(wild.run, name).tick
        assert tick in (first + 4, first + 5)
        if tick == first + 5:
            back = command("world", "rewind", str(wild_run.run.path), name, "--tick", str(first + 4))
            assert back.returncode == 0, back.stderr
    assert shown == expected and len(tokens) == 1
