"""Worlds on disk: opened again they go on as if nothing had happened, whatever ended them.

Run: pytest tests/world/test_sessions.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_worlds import (
    MECHANISMS,
    OTHER,
    PASSES,
    action_at,
    backbone_of,
    frames_of,
    live,
    opened,
    toy_world,
    uninterrupted,
    worlds_in,
)

from unimodel.errors import RunError
from unimodel.run_folder import RunFolder
from unimodel.world.sessions.branching import branch_world
from unimodel.world.sessions.catalogue import (
    delete_world,
    kept_token,
    name_moment,
    read_world,
    rewind_world,
    world_names,
)
from unimodel.world.sessions.living import Act, LivingWorld
from unimodel.world.sessions.log import read_log
from unimodel.world.sessions.past import LivedBy
from unimodel.world.sessions.snapshots import is_kept

TICKS = 13
each_model = pytest.mark.parametrize("mechanisms", MECHANISMS.values(), ids=MECHANISMS)


@each_model
def test_a_world_goes_on_token_by_token_whenever_it_is_opened(mechanisms: list | None, tmp_path: Path) -> None:
    """Closed and opened before every tick, its frames and its memory are those of a world that never was on a disk."""
    backbone = backbone_of(mechanisms)
    toy_world(tmp_path)
    for _ in range(TICKS):
        world = opened(tmp_path, backbone)
        live(world, 1)
        world.close()
    world = opened(tmp_path, backbone)
    np.testing.assert_array_equal(frames_of(world), uninterrupted(backbone, TICKS))
    assert len(np.unique(frames_of(world), axis=0)) == TICKS + 1
    toy_world(tmp_path, "other")
    other = opened(tmp_path, backbone, "other")
    live(other, TICKS)
    memories = [each._worlds.memory(each._alive()) for each in (world, other)]
    if mechanisms is None:
        assert memories == [None, None] and not world.memory_bytes
        return
    assert memories[0] is not None and memories[1] is not None and world.memory_bytes
    for name, value in memories[1].items():
        assert torch.equal(value, memories[0][name]), name


@each_model
def test_its_log_lived_again_is_the_same_world(mechanisms: list | None, tmp_path: Path) -> None:
    """Drawn again from its first frame, with the actions and passes of the log, every frame is the one in the log."""
    backbone = backbone_of(mechanisms)
    world = _eventful(tmp_path, backbone)
    past = world.past
    worlds = worlds_in(backbone)
    slot = worlds.open(past.state(0), past.birth.seed)
    for tick in past.ticks:
        for deed in tick.told:
            ids = np.array(deed.value["ids"])
            if deed.kind == "event":
                worlds.make_happen(slot, ids)
            else:
                worlds.tell(slot, ids)
        (codes,) = worlds.step([slot], [act.action or 0 for act in tick.acts], tick.passes)
        np.testing.assert_array_equal(codes, past.frame(tick))


def _eventful(run: Path, backbone: object, name: str = "eventful") -> LivingWorld:
    """Somebody comes, something happens, another mission is told, passes differ."""
    toy_world(run, name)
    world = opened(run, backbone, name)  # type: ignore[arg-type]
    world.join("ada")
    live(world, 3)
    world.tell("ada", "a ball", np.array([7, 8]), is_event=True)
    world.tell("ada", "another mission", np.array([9, 4, 5]), is_event=False)
    live(world, 2)
    world.step([Act("ada", 1)], 1)
    world.leave("ada")
    live(world, 2)
    world.tell("bob", "a box", np.array([6]), is_event=True)
    return world


@each_model
def test_what_it_was_told_is_known_after_opening_it(mechanisms: list | None, tmp_path: Path) -> None:
    backbone = backbone_of(mechanisms)
    whole = _eventful(tmp_path, backbone, "whole")
    live(whole, 4)
    broken = _eventful(tmp_path, backbone, "broken")
    for _ in range(4):
        broken.close()
        broken = opened(tmp_path, backbone, "broken")
        live(broken, 1)
    np.testing.assert_array_equal(frames_of(broken), frames_of(whole))
    assert broken.past.mission(broken.tick)[0] == "another mission" and broken.past.mission(3)[0] == "go on"
    assert not broken.past.here


def test_a_text_changes_what_comes(tmp_path: Path) -> None:
    """What the tests above compare would else be the same without it."""
    backbone = backbone_of(MECHANISMS["composed"])
    toy_world(tmp_path)
    world = opened(tmp_path, backbone)
    live(world, 4)
    frames = []
    for told in (None, True, False):
        if told is not None:
            world.tell("ada", "a ball", np.array([7, 8]), is_event=told)
        frames.append(np.stack(live(world, 3)))
        world.close()
        assert rewind_world(RunFolder(tmp_path), "garden", 4) == 7
        world = opened(tmp_path, backbone)
    assert len(np.unique(frames, axis=0)) == 3


@each_model
def test_rewound_and_branched_worlds_live_the_same_again_and_share_nothing(
    mechanisms: list | None, tmp_path: Path
) -> None:
    backbone = backbone_of(mechanisms)
    toy_world(tmp_path)
    world = opened(tmp_path, backbone)
    live(world, TICKS)
    expected = frames_of(world)
    for tick in (TICKS - 1, 6, 0):
        assert branch_world(RunFolder(tmp_path), "garden", f"at-{tick}", tick) == tick
        branch = opened(tmp_path, backbone, f"at-{tick}")
        live(branch, TICKS - tick)
        np.testing.assert_array_equal(frames_of(branch), expected)
    for tick in (TICKS - 1, 6, 0):
        world.close()
        rewind_world(RunFolder(tmp_path), "garden", tick)
        world = opened(tmp_path, backbone)
        assert world.tick == tick
        live(world, TICKS - tick)
        np.testing.assert_array_equal(frames_of(world), expected)
    world.close()
    rewind_world(RunFolder(tmp_path), "garden", 5)
    world = opened(tmp_path, backbone)
    branch.step([Act("bob", 0)], PASSES)
    for later in range(6, TICKS + 1):
        world.step([Act("ada", (action_at(later) + 1) % 5)], PASSES)
    assert not np.array_equal(frames_of(world), expected)
    world.close()
    delete_world(RunFolder(tmp_path), "garden")
    branch.close()
    assert opened(tmp_path, backbone, "at-0").tick == TICKS + 1


def test_opening_reads_only_what_came_after_the_last_memory(tmp_path: Path) -> None:
    """A segment has two steps: never more than those are lived again, however long the world is; a lost or damaged
    memory costs time alone."""
    backbone = backbone_of(MECHANISMS["composed"])
    toy_world(tmp_path)
    world = opened(tmp_path, backbone)
    for _ in range(40):
        live(world, 1)
        world.close()
        world = opened(tmp_path, backbone)
        assert world.replayed_ticks < 2
    files = sorted((world.folder / "memory").iterdir())
    assert len(files) == sum(is_kept(number, 19) for number in range(20)) < 14
    expected = frames_of(world)
    world.close()
    newest = files[-1].read_bytes()
    files[-1].write_bytes(newest[:200] + bytes([newest[200] ^ 1]) + newest[201:])
    files[-2].unlink()
    world = opened(tmp_path, backbone)
    assert 2 < world.replayed_ticks < 10
    np.testing.assert_array_equal(frames_of(world), expected)
    live(world, 3)
    world.close()
    for file in (world.folder / "memory").iterdir():
        file.unlink()
    world = opened(tmp_path, backbone)
    assert world.replayed_ticks == 43
    live(world, 2)
    np.testing.assert_array_equal(frames_of(world), uninterrupted(backbone, 45))


def test_memories_thin_out_with_age_and_never_come_back() -> None:
    kept: set[int] = set()
    for newest in range(3000):
        kept = {number for number in kept if is_kept(number, newest)} | {newest}
        assert kept == {number for number in range(newest + 1) if is_kept(number, newest)}
    assert {2999, 2998, 2997, 2996} <= kept and 0 in kept and len(kept) < 40


def test_one_process_lives_a_world_and_others_are_told_which(tmp_path: Path) -> None:
    backbone = backbone_of(None)
    toy_world(tmp_path)
    world = opened(tmp_path, backbone)
    with pytest.raises(RunError, match="in this process already"):
        opened(tmp_path, backbone)
    with pytest.raises(RunError):
        delete_world(RunFolder(tmp_path), "garden")
    live(world, 2)
    folder, read = read_world(RunFolder(tmp_path), "garden")
    assert folder == world.folder and read.damage is None and read.entries[-1].deed.tick == 2
    world.close()
    assert opened(tmp_path, backbone).tick == 2


def test_another_checkpoint_goes_on_only_when_that_is_meant(tmp_path: Path) -> None:
    backbone, other = backbone_of(MECHANISMS["episodic"]), backbone_of(MECHANISMS["recurrent"])
    folder = toy_world(tmp_path)
    world = opened(tmp_path, backbone)
    live(world, 7)
    frames = frames_of(world)
    world.close()
    with pytest.raises(ValueError, match=r"is lived by stage 'memory', step 100 \(aaaa.*--adopt"):
        LivingWorld(folder, worlds_in(other), OTHER)
    with pytest.raises(ValueError, match="tokens of other tokenizers"):
        LivingWorld(folder, worlds_in(other), LivedBy("b" * 64, "memory", 200, "u" * 64), adopt=True)
    adopted = LivingWorld(folder, worlds_in(other), OTHER, adopt=True)
    assert adopted.is_adopted and adopted.replayed_ticks == 7
    np.testing.assert_array_equal(frames_of(adopted), frames)
    live(adopted, 2)
    adopted.close()
    assert [entry.deed.kind for entry in read_log(folder).entries].count("adopt") == 1
    again = LivingWorld(folder, worlds_in(other), OTHER)
    assert not again.is_adopted and again.replayed_ticks < 2


def test_what_cannot_be_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    backbone, run = backbone_of(MECHANISMS["window"]), RunFolder(tmp_path)
    toy_world(tmp_path)
    with pytest.raises(ValueError, match="has a world 'garden' already"):
        toy_world(tmp_path)
    for name in ("", "../up", ".hidden", "a" * 65, "with space"):
        with pytest.raises(ValueError, match="is no name for a world"):
            toy_world(tmp_path, name)
    with pytest.raises(FileNotFoundError, match=r"no world 'nowhere' \(it has garden\)"):
        branch_world(run, "nowhere", "new")
    world = opened(tmp_path, backbone)
    live(world, 3)
    before = read_log(world.folder).entries
    for wrong in ([Act("ada", 5)], [Act("ada", -1)], [], [Act("ada", 0), Act("bob", 0)]):
        with pytest.raises(ValueError):
            world.step(wrong, PASSES)
    world.close()
    for tick in (4, -1):
        with pytest.raises(ValueError, match="ticks 0 to 3"):
            rewind_world(run, "garden", tick)
        with pytest.raises(ValueError, match="ticks 0 to 3"):
            branch_world(run, "garden", "new", tick)
    assert read_log(world.folder).entries == before
    assert name_moment(run, "garden", "here") == (3, "here")
    with pytest.raises(ValueError, match="tick 3 of 'garden' has the name 'here' already"):
        name_moment(run, "garden", "here")
    world = opened(tmp_path, backbone)
    assert world.past.tags == {"here": 3}
    world.join("ada")
    with pytest.raises(ValueError, match="is here already"):
        world.join("ada")
    assert len(read_log(world.folder).entries) == len(before) + 3 and world_names(run) == ["garden"]
    live(world, 2)
    np.testing.assert_array_equal(frames_of(world), uninterrupted(backbone, 5))


def test_a_token_stays_with_its_world_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = toy_world(tmp_path)
    token = kept_token(folder)
    assert kept_token(folder) == token and len(token) >= 24
    assert (folder / "token").stat().st_mode & 0o077 == 0
    branch_world(RunFolder(tmp_path), "garden", "other")
    assert kept_token(folder.with_name("other")) != token
