"""One world of three agents for all who come: each is one of them, all act in one tick, and others look on.

Run: pytest tests/world/test_shared_society.py
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from lived_worlds import lived_again, past_of
from play_server import PlayClient, PlayServer, shared_server

from unimodel.training.loaded_run import LoadedRun
from unimodel.world.play.bots import bots_of
from unimodel.world.play.dream import Dream
from unimodel.world.play.settings import PlaySettings
from unimodel.world.play.shared_ground import open_shared_ground
from unimodel.world.sessions.from_run import create_world

STAY, UP, DOWN, LEFT, RIGHT, TRADE = range(6)
NOBODY = {"agent": None, "action": None}
SEATS = ["agent 0 (white)", "agent 1 (orange)", "agent 2 (teal)"]


@pytest.fixture
def name(society: LoadedRun, request: pytest.FixtureRequest) -> Iterator[str]:
    new = request.node.name[:40]
    create_world(society, new)
    yield new


def enter(server: PlayServer, stack: ExitStack, name: str | None = None, session: str | None = None) -> PlayClient:
    client = stack.enter_context(server.client(hello=False))
    client.enter(name=name, session=session)
    client.hear("frame")
    return client


def did(agent: str, action: int) -> dict[str, Any]:
    return {"agent": agent, "action": action}


def test_three_act_in_one_tick_and_all_is_found_again_by_the_next_server(society: LoadedRun, name: str) -> None:
    with shared_server(society, name) as server, ExitStack() as stack:
        ada, bob, bot = (enter(server, stack, who) for who in ("ada", "bob", "bot"))
        dan = enter(server, stack, "dan")
        assert [each.welcome["seat"] for each in (ada, bob, bot, dan)] == [0, 1, 2, None]
        assert dan.welcome["seats"] == SEATS
        for wish in ({"kind": "key", "action": UP, "down": True}, {"kind": "step"}, {"kind": "mode", "mode": "turns"}):
            dan.say(**wish)
            assert "All agents of this world are taken" in dan.hear("notice")["text"]
        dan.say("release")
        first = bob.tap(LEFT)
        assert first["acts"] == [did("ada", STAY), did("bob", LEFT), did("bot", STAY)]
        assert first["action"] is first["agent"] is None and first["step"] == 1
        assert dan.hear("frame", until=lambda frame: frame["step"] == 1)["pictures"] == first["pictures"]
        ada.say("mode", mode="real_time")
        together = [did("ada", UP), did("bob", RIGHT), did("bot", TRADE)]
        for client, act in zip((ada, bob, bot), together, strict=True):
            client.say("key", action=act["action"], down=True)
        ada.hear("frame", until=lambda frame: frame["acts"] == together)
        bot.socket.close()
        state = dan.hear("state", until=lambda state: "bot" not in state["life"]["seats"])
        assert state["life"]["seats"] == ["ada", "bob", "dan"]
        dan.say("key", action=DOWN, down=True)
        together[2] = did("dan", DOWN)
        ada.hear("frame", until=lambda frame: frame["acts"] == together)
        ada.enter(name="lovelace")  # whoever takes another name stays who they are
        assert ada.welcome["seat"] == 0
        ada.say("pause", paused=True)
        ada.hear("state", until=lambda state: state["paused"])
    lived = past_of(society.run, name).tick
    with shared_server(society, name) as server, ExitStack() as stack:
        dan, bob, ada = (enter(server, stack, session=f"{name}/{who}") for who in ("dan", "bob", "lovelace"))
        assert [each.welcome["seat"] for each in (ada, bob, dan)] == [0, 1, 2] and ada.step == lived
        assert ada.tap(RIGHT)["acts"] == [did("lovelace", RIGHT), did("bob", STAY), did("dan", STAY)]
        ada.socket.close()
        bob.hear("state", until=lambda state: state["life"]["seats"] == [None, "bob", "dan"])
        assert bob.tap(DOWN)["acts"] == [NOBODY, did("bob", DOWN), did("dan", STAY)]
        assert enter(server, stack).welcome["seat"] == 0
    past = past_of(society.run, name)
    assert past.tick == lived + 2 and all(len(tick.acts) == 3 for tick in past.ticks)
    order = {"ada": 0, "lovelace": 0, "bob": 1, "bot": 2, "dan": 2}
    for tick in past.ticks:
        assert [order.get(act.agent, seat) for seat, act in enumerate(tick.acts)] == [0, 1, 2]
    frames = past.state(past.tick).frames
    np.testing.assert_array_equal(lived_again(society, past), frames)
    assert len(np.unique(frames, axis=0)) > past.tick // 2


def test_bots_of_the_server_act_in_every_tick_and_stop_when_all_people_have_gone(society: LoadedRun, name: str) -> None:
    with shared_server(society, name, bots=("random", "policy")) as server, ExitStack() as stack:
        ada = enter(server, stack, "ada")
        assert ada.welcome["seat"] == 2
        assert [act["agent"] for act in ada.tap(UP)["acts"]] == ["random", "policy", "ada"]
        ada.say("mode", mode="real_time")
        ada.hear("frame", until=lambda frame: frame["step"] >= 12)
        ada.socket.close()
        late = stack.enter_context(server.client(hello=False))
        late.enter(name="late")
        state = late.hear("state")
        assert state["paused"] and state["life"]["seats"] == ["random", "policy", "late"]
        dan = enter(server, stack, "policy")
        assert dan.welcome["you"] == "policy-1" and dan.welcome["seat"] is None
    past = past_of(society.run, name)
    done = np.array([[act.action for act in tick.acts] for tick in past.ticks])
    assert done[0, 2] == UP and (done[1:, 2] == STAY).all() and done.min() >= 0
    assert len(np.unique(done[:, 0])) > 2, "random actions"
    np.testing.assert_array_equal(lived_again(society, past), past.state(past.tick).frames)


def test_bots_that_cannot_be_are_refused_and_the_world_is_let_go_of(society: LoadedRun, name: str) -> None:
    for bots, what in ((["clever"], "no bot 'clever'"), (["random"] * 4, "has 3 agents, and 4 bots")):
        with pytest.raises(ValueError, match=what):
            open_shared_ground(society, name, PlaySettings(), bots=bots)
    open_shared_ground(society, name, PlaySettings(), bots=["random", "random"]).close()
    with pytest.raises(ValueError, match="is an agent of a world of several"):
        bots_of(society, ["random"], 1)


def test_a_text_has_the_room_that_the_actions_of_all_leave(society: LoadedRun) -> None:
    alone, three = (Dream(society, (64, 64), num_agents=agents) for agents in (1, 3))
    alone._row_tokens = three._row_tokens = 330
    assert alone.text_tokens - three.text_tokens == 2 * 3, "of three steps"
