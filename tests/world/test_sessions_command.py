"""`unimodel world create`, `step`, `show` and the others, as a user runs them.

Run: pytest tests/world/test_sessions_command.py
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
from tiny_run import TinyRun, start, tiny_run, train_here
from typer.testing import CliRunner

from unimodel.cli import app
from unimodel.world.sessions.catalogue import world_names


def world(run: TinyRun, subcommand: str, *arguments: str, answer: str | None = None) -> str:
    """What `unimodel world SUBCOMMAND RUN ...` prints. Raises what it raises."""
    done = CliRunner().invoke(app, ["world", subcommand, str(run.run.path), *arguments], input=answer)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def frames(printed: str) -> list[str]:
    return re.findall(r"frame ([0-9a-f]{16})", printed)


def test_a_world_from_its_making_to_its_end(wild_run: TinyRun) -> None:
    world(wild_run, "create", "garden", "--episode", "1", "--split", "test", "--seed", "3")
    whole = frames(world(wild_run, "step", "garden", "--actions", "0,forward,2,1,2,0,2,2"))
    assert len(whole) == 8
    shown = world(wild_run, "show", "garden")
    for what in ("tick       8", "episode 1 of test", "seed 3", "script 8", "nobody: no process lives it"):
        assert what in shown
    assert "tick 3 of" not in world(wild_run, "snapshot", "garden", "end")

    assert "goes on from tick 3; it was at 8" in world(wild_run, "rewind", "garden", "--tick", "3")
    assert world(wild_run, "snapshot", "garden").startswith("tick 3 of 'garden' is 'tick-3'")
    assert "'other' has the past of 'garden' up to tick 3" in world(wild_run, "branch", "garden", "other")
    for name in ("garden", "other"):
        assert frames(world(wild_run, "step", name, "--actions", "1,2,0,2,2", "--agent", name)) == whole[3:]
    assert "alive at tick 8" in world(wild_run, "open", "garden")
    with pytest.raises(ValueError, match="no moment 'end'; it has tick-3"):
        world(wild_run, "rewind", "garden", "--tag", "end")
    world(wild_run, "rewind", "garden", "--tag", "tick-3")

    log = [json.loads(line) for line in world(wild_run, "log", "garden").splitlines()]
    assert [line["number"] for line in log] == list(range(len(log)))
    assert [line["frame"] for line in log if line["kind"] == "tick"] == [*whole, *whole[3:]]
    assert [line["agent"] for line in log if line["kind"] == "act"] == ["script"] * 8 + ["garden"] * 5
    assert log[0]["kind"] == "born" and log[-1]["kind"] == "rewind" and log[-1]["from"] == 8
    assert all("codes" not in line for line in log)
    coded = [json.loads(line) for line in world(wild_run, "log", "garden", "--frames").splitlines()]
    assert len(coded[0]["codes"]) == 16

    listed = world(wild_run, "list")
    assert "garden" in listed and "other" in listed
    refused = CliRunner().invoke(app, ["world", "delete", str(wild_run.run.path), "other"], input="n\n")
    assert refused.exit_code == 1 and {"garden", "other"} <= {*world_names(wild_run.run)}
    world(wild_run, "delete", "other", answer="y\n")
    world(wild_run, "delete", "garden", "--yes")
    assert not {"garden", "other"} & {*world_names(wild_run.run)}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("create", "a b"), "is no name for a world"),
        (("create", "taken"), "has a world 'taken' already"),
        (("create", "new", "--episode", "999"), "episode 999 does not exist"),
        (("step", "taken", "--actions", "0,jump"), "'jump' is no action of this world; it has 0 left"),
        (("step", "nowhere", "--actions", "0"), "has no world 'nowhere'"),
        (("rewind", "taken"), "--tick N, or --tag NAME"),
        (("rewind", "taken", "--tick", "1"), "ticks 0 to 0, not 1"),
        (("branch", "taken", "taken"), "has a world 'taken' already"),
        (("delete", "nowhere", "--yes"), "has no world 'nowhere'"),
    ],
)
def test_a_mistake_is_told(wild_run: TinyRun, arguments: tuple[str, ...], what: str) -> None:
    if "taken" not in world_names(wild_run.run):
        world(wild_run, "create", "taken")
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(what)):
        world(wild_run, *arguments)
    assert "new" not in world_names(wild_run.run)


@pytest.mark.parametrize("subcommand", ["list", "show", "step", "delete"])
def test_a_run_that_is_gone_is_told(subcommand: str, tmp_path: Path) -> None:
    rest = {"list": (), "step": ("garden", "--actions", "0")}.get(subcommand, ("garden",))
    done = CliRunner().invoke(app, ["world", subcommand, str(tmp_path / "gone"), *rest])
    assert isinstance(done.exception, FileNotFoundError) and "is not a run folder" in str(done.exception)


def test_a_run_without_worlds_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    done = CliRunner().invoke(app, ["world", "list", str(tmp_path)])
    assert done.exit_code == 0 and "has no worlds: `unimodel world create" in done.output.replace("\n", " ")


def test_a_damaged_world_is_listed_as_such(wild_run: TinyRun) -> None:
    world(wild_run, "create", "hurt")
    folder = wild_run.run.worlds / "hurt"
    content = bytearray((folder / "log.sqlite").read_bytes())
    place = content.index(b'"format"')
    content[place] ^= 1
    (folder / "log.sqlite").write_bytes(bytes(content))
    assert "damaged: entry 0" in world(wild_run, "list").replace("\n", " ")
    with pytest.raises(ValueError, match=r"is damaged: entry 0 .* is not as it was written"):
        world(wild_run, "show", "hurt")
    world(wild_run, "delete", "hurt", "--yes")


def test_a_run_with_memories_keeps_its_worlds_and_adopts_those_of_an_earlier_stage(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "stages.interactive.steps=2", "stages.memory.steps=2", stages=("interactive", "memory"))
    train_here(run.config)
    for name in ("whole", "parts"):
        world(run, "create", name)
    actions = [str(number % 3) for number in range(14)]
    whole = frames(world(run, "step", "whole", "--actions", ",".join(actions)))
    parts = [frames(world(run, "step", "parts", "--actions", ",".join(actions[at : at + 5]))) for at in (0, 5, 10)]
    assert [frame for part in parts for frame in part] == whole
    opened = world(run, "open", "parts")
    assert "memory beyond the window has 0 bytes" not in opened
    assert int(re.findall(r"(\d+) ticks were lived again", opened)[0]) < 14
    assert re.search(r"memory +[1-9][\d,]+ bytes", world(run, "show", "parts"))

    world(run, "create", "young", "--stage", "interactive")
    before = frames(world(run, "step", "young", "--actions", "0,1,2", "--stage", "interactive"))
    with pytest.raises(ValueError, match="is lived by stage 'interactive', step 2 .* Say --adopt"):
        world(run, "step", "young", "--actions", "0")
    world(run, "step", "young", "--actions", "0,1", "--adopt")
    world(run, "step", "young", "--actions", "2")
    log = [json.loads(line) for line in world(run, "log", "young").splitlines()]
    assert [line["frame"] for line in log if line["kind"] == "tick"][:3] == before
    assert [line["lived_by"]["stage"] for line in log if "lived_by" in line] == ["interactive", "memory"]


@pytest.mark.slow
def test_a_command_that_is_killed_loses_no_tick_that_it_printed(wild_run: TinyRun, tmp_path: Path) -> None:
    world(wild_run, "create", "killed")
    world(wild_run, "create", "whole")
    actions = ",".join(str(number % 3) for number in range(60))
    expected = frames(world(wild_run, "step", "whole", "--actions", actions))
    printed: list[str] = []
    while len(printed) < 40:
        rest = ",".join(actions.split(",")[len(printed) :])
        process = start("world", "step", str(wild_run.run.path), "killed", "--actions", rest, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        for _ in range(12):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        lines = world(wild_run, "log", "killed").splitlines()
        printed = [line["frame"] for line in map(json.loads, lines) if line["kind"] == "tick"]
    assert printed == expected[: len(printed)]
