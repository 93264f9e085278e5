"""Worlds on disk of several agents: who is which, what a tick takes, and that all of it is found again.

Run: pytest tests/world/test_seats.py
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_sequences import VOCABULARY, toy_episode
from toy_worlds import MECHANISMS, PASSES, SEED, SIDE, backbone_of, frames_of, opened, toy_world, worlds_in

from data_pipelines.sources.episode import UNKNOWN_ACTION
from unimodel.backbone.model import Backbone
from unimodel.run_folder import RunFolder
from unimodel.world.play.controls import Controls
from unimodel.world.play.rounds import Round, Rounds
from unimodel.world.sessions.branching import branch_world
from unimodel.world.sessions.catalogue import rewind_world
from unimodel.world.sessions.living import Act, LivingWorld, acts_of
from unimodel.world.sessions.log import read_log
from unimodel.world.sessions.notes import note_of
from unimodel.world.sessions.past import Birth, Past
from unimodel.world.sessions.summary import describe
from unimodel.world.state import WorldState

TICKS = 9
TWO = ("white", "orange")
some_models = pytest.mark.parametrize("kind", ["none", "window", "composed"])


def actions_at(tick: int) -> list[int]:
    """Of two agents, who come and go: whoever knows the tick knows them."""
    rng = np.random.default_rng(tick)
    actions = rng.integers(VOCABULARY.action_size, size=2)
    actions[rng.random(2) < 0.3] = UNKNOWN_ACTION
    return actions.tolist()


def live(world: LivingWorld, ticks: int) -> None:
    for _ in range(ticks):
        world.step(acts_of("bot", actions_at(world.tick + 1)), PASSES)


def never_on_a_disk(backbone: Backbone, ticks: int) -> np.ndarray:
    episode, worlds = toy_episode(5, 1, SIDE), worlds_in(backbone)
    state = WorldState(episode.mission, episode.frames[:1], np.zeros((0, 2), dtype=np.int64))
    slot = worlds.open(state, SEED)
    for tick in range(1, ticks + 1):
        worlds.step([slot], [actions_at(tick)], PASSES)
    return worlds.state(slot).frames


# --- ticks ----------------------------------------------------------------------------------------------------------


@some_models
def test_a_world_of_two_goes_on_token_by_token_whenever_it_is_opened(kind: str, tmp_path: Path) -> None:
    backbone = backbone_of(MECHANISMS[kind])
    toy_world(tmp_path, agents=TWO)
    for _ in range(TICKS):
        world = opened(tmp_path, backbone)
        live(world, 1)
        world.close()
    world = opened(tmp_path, backbone)
    np.testing.assert_array_equal(frames_of(world), never_on_a_disk(backbone, TICKS))
    state = world.past.state(TICKS)
    assert state.actions.tolist() == [actions_at(tick) for tick in range(1, TICKS + 1)]
    assert (state.actions == UNKNOWN_ACTION).any() and world.past.state(0).actions.shape == (0, 2)
    memory = world._worlds.memory(world._alive())
    toy_world(tmp_path, "other", TWO)
    other = opened(tmp_path, backbone, "other")
    live(other, TICKS)
    for name, value in (other._worlds.memory(other._alive()) or {}).items():
        assert memory is not None and torch.equal(value, memory[name]), name
    world.close()
    rewind_world(RunFolder(tmp_path), "garden", 4)
    assert branch_world(RunFolder(tmp_path), "garden", "branch") == 4
    for name in ("garden", "branch"):
        again = opened(tmp_path, backbone, name)
        live(again, TICKS - 4)
        np.testing.assert_array_equal(frames_of(again), frames_of(other))


def test_whose_action_it_is_matters_to_the_frames(tmp_path: Path) -> None:
    """What the test above compares would else be the same without it."""
    backbone, frames = backbone_of(None), []
    for number, actions in enumerate([(1, 2), (2, 1), (1, UNKNOWN_ACTION), (UNKNOWN_ACTION, 1)]):
        toy_world(tmp_path, f"w{number}", TWO)
        world = opened(tmp_path, backbone, f"w{number}")
        frames.append([world.step(acts_of("bot", actions), PASSES) for _ in range(3)])
    assert len(np.unique(np.array(frames), axis=0)) == 4


def test_the_log_has_an_act_of_each_agent_in_order(tmp_path: Path) -> None:
    toy_world(tmp_path, agents=TWO)
    world = opened(tmp_path, backbone_of(None))
    acts = [[Act("ada", 1), Act("bob", 2)], [Act("", UNKNOWN_ACTION), Act("ada", 0)]]
    for each in acts:
        world.step(each, PASSES)
    before = read_log(world.folder).entries
    found = [entry.deed for entry in before if entry.deed.kind in ("act", "tick")]
    assert [(deed.kind, deed.tick, deed.agent, deed.action) for deed in found] == [
        ("act", 1, "ada", 1), ("act", 1, "bob", 2), ("tick", 1, "", None),
        ("act", 2, "", UNKNOWN_ACTION), ("act", 2, "ada", 0), ("tick", 2, "", None),
    ]  # fmt: skip
    for wrong in (
        [Act("ada", 1)],
        [],
        [Act("ada", 1)] * 3,
        [Act("ada", -2), Act("bob", 0)],
        [Act("a", 9), Act("b", 0)],
    ):
        with pytest.raises(ValueError):
            world.step(wrong, PASSES)
    assert read_log(world.folder).entries == before and world.tick == 2
    world.close()
    assert dict(describe(RunFolder(tmp_path), "garden"))["acts"] == "ada 2, bob 1"


def test_a_log_of_one_agent_is_what_it_was(tmp_path: Path) -> None:
    folder = toy_world(tmp_path)
    world = opened(tmp_path, backbone_of(None))
    world.join("ada")
    world.join("bob")
    world.leave("ada")
    deeds = [entry.deed for entry in read_log(folder).entries]
    assert "agents" not in deeds[0].value["birth"] and all(not deed.value for deed in deeds[2:])
    assert [deed.kind for deed in deeds] == ["born", "open", "join", "join", "leave"]
    assert Past.of(read_log(folder).entries).birth.num_agents == 1 and world.past.seats == {"bob": 0}


def test_ticks_are_written_with_an_action_of_each() -> None:
    birth = Birth((1, 1), "", (), ("stay", "go"), 0, "test", "", 0, TWO)
    assert birth.ticks_of(["stay+1", "-+go", "go + absent"]) == [[0, 1], [-1, 1], [1, -1]]
    assert birth.names_of([-1, 1]) == "-+go"
    for wrong, said in (("go", "of each of 2 agents: join them by +, as stay+stay"), ("go+fly", "'fly' is no action")):
        with pytest.raises(ValueError, match=said.replace("+", r"\+")):
            birth.ticks_of([wrong])
    alone = Birth(**asdict(birth) | {"agents": ()})
    assert alone.ticks_of(["stay", "1"]) == [[0], [1]]
    with pytest.raises(ValueError, match="'-' is no action"):
        alone.ticks_of(["-"])
    assert birth.seat_name(1) == "agent 1 (orange)"
    assert Birth(**asdict(birth) | {"agents": ("", "agent_1")}).seat_name(1) == "agent 1"


# --- who is which ---------------------------------------------------------------------------------------------------


def test_who_comes_is_the_first_agent_that_nobody_is_and_who_is_too_late_looks_on(tmp_path: Path) -> None:
    toy_world(tmp_path, agents=TWO)
    world = opened(tmp_path, backbone_of(None))
    for name in ("ada", "bob", "cleo", "dan"):
        world.join(name)
    assert world.past.seats == {"ada": 0, "bob": 1} and list(world.past.here) == ["ada", "bob", "cleo", "dan"]
    world.leave("cleo")
    world.join("cleo")  # behind dan now
    world.leave("ada")
    assert world.past.seats == {"bob": 1, "dan": 0}
    world.rename("bob", "bert")
    assert world.past.seats == {"dan": 0, "bert": 1} and list(world.past.here)[-1] == "bert"
    for wrong in ("dan", "cleo", ""):
        with pytest.raises(ValueError, match="is here already"):
            world.rename("bert", wrong)
    assert Past.of(read_log(world.folder).entries).seats == world.past.seats
    told = [note_of(entry, world.past.birth) for entry in world.past.notable]
    assert [note.text for note in told if note is not None] == [
        "ada came as agent 0 (white).",
        "bob came as agent 1 (orange).",
        "cleo came.",
        "dan came.",
        "cleo left.",
        "cleo came.",
        "ada left.",
        "dan is agent 0 (white) now.",
        "bob left.",
        "bert came as agent 1 (orange).",
    ]
    here = dict(describe(RunFolder(tmp_path), "garden"))
    assert here["agents"] == "agent 0 (white), agent 1 (orange)"
    assert "dan, agent 0 (white), since tick 0" in here["here"] and "cleo, who looks on, since tick 0" in here["here"]


def test_after_a_process_has_died_everybody_is_the_agent_that_they_were(tmp_path: Path) -> None:
    toy_world(tmp_path, agents=("", "", ""))
    backbone = backbone_of(None)
    world = opened(tmp_path, backbone)
    for name in ("ada", "bob", "cleo"):
        world.join(name)
    world.close()  # nobody left: it is as if the process was killed
    world = opened(tmp_path, backbone)
    assert not world.past.here and not world.past.seats
    for name in ("cleo", "bob", "dan", "ada"):
        world.join(name)
    assert world.past.seats == {"cleo": 2, "bob": 1, "dan": 0}, "dan was there before ada"
    world.leave("cleo")
    assert world.past.seats == {"bob": 1, "dan": 0, "ada": 2}
    world.close()
    branch_world(RunFolder(tmp_path), "garden", "other")
    other = opened(tmp_path, backbone, "other")
    other.join("ada")
    assert other.past.seats == {"ada": 2}, "where she was last"


# --- rounds ---------------------------------------------------------------------------------------------------------


def rounds(*names: str, **seats: int) -> Rounds:
    made = Rounds(Controls.of(names or ("stay", "up", "down")), 0.1, 3)
    made.settle(seats)
    return made


def taken(made: Rounds, now: float, *, ticking: bool) -> list[tuple[str, int]]:
    due = made.take(now, ticking=ticking)
    assert isinstance(due, Round)
    return [(act.agent, act.action) for act in due.acts]


def test_all_who_pressed_act_at_once_and_the_others_do_nothing() -> None:
    made = rounds(bob=2, ada=0)
    assert made.take(1.0, ticking=False) is None
    made.of("bob").press(1, 1.0)
    made.of("bob").release(1)
    assert taken(made, 1.0, ticking=False) == [("ada", 0), ("", -1), ("bob", 1)]
    assert made.take(1.0, ticking=False) is None
    for agent, action, now in (("bob", 2, 2.1), ("ada", 1, 2.0)):
        made.of(agent).press(action, now)
    due = made.take(2.2, ticking=False)
    assert isinstance(due, Round) and [act.action for act in due.acts] == [1, -1, 2]
    assert (due.agent, due.pressed_at) == ("ada", 2.0)
    made.of("ada").ask_step()
    made.release_all()
    assert made.take(2.3, ticking=False) is None


def test_in_real_time_every_tick_takes_what_each_holds() -> None:
    made = rounds(ada=0, bob=1)
    assert taken(made, 1.0, ticking=True) == [("ada", 0), ("bob", 0), ("", -1)]
    assert made.take(1.05, ticking=True) == pytest.approx(0.05)
    made.of("ada").press(1, 1.06)
    made.of("bob").press(2, 1.07)
    made.of("bob").release(2)
    assert taken(made, 1.11, ticking=True) == [("ada", 1), ("bob", 2), ("", -1)]
    assert taken(made, 1.21, ticking=True) == [("ada", 1), ("bob", 0), ("", -1)]
    made.settle({"cleo": 0})
    assert "ada" not in made and taken(made, 1.4, ticking=True) == [("cleo", 0), ("", -1), ("", -1)]
    made.settle({})
    assert made.take(9.0, ticking=True) is None, "nobody is there"


def test_where_every_action_does_something_one_who_does_not_act_is_unknown_and_time_waits() -> None:
    made = rounds("left", "right", ada=0, bob=1)
    assert made.take(1.0, ticking=True) is None
    made.of("bob").press(1, 1.0)
    assert taken(made, 1.0, ticking=True) == [("ada", -1), ("bob", 1), ("", -1)]


def test_keys_that_are_held_repeat_together_and_a_tap_does_not_count_twice() -> None:
    made = rounds(ada=0, bob=1)
    made.of("ada").press(1, 1.0)
    assert taken(made, 1.0, ticking=False)[0] == ("ada", 1)
    made.of("bob").press(2, 1.1)  # ada's finger is still down
    assert taken(made, 1.1, ticking=False) == [("ada", 0), ("bob", 2), ("", -1)]
    steps = []
    now = 1.1
    while now < 2.5:
        due = made.take(now, ticking=False)
        assert due is not None
        if isinstance(due, Round):
            steps.append([act.action for act in due.acts[:2]])
        else:
            now += due
    assert steps[0] == [1, 0] and steps[2:] == [[1, 2]] * len(steps[2:]) and 8 <= len(steps) <= 13
