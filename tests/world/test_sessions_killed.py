"""Worlds whose process is killed, at random moments and before every call that changes the disk; damage; full disks.

Run: pytest tests/world/test_sessions_killed.py
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from store_writer import Killer, forked
from toy_worlds import (
    MECHANISMS,
    MODEL,
    backbone_of,
    frames_of,
    live,
    live_for_ever,
    opened,
    toy_world,
    uninterrupted,
    worlds_in,
)

from unimodel.backbone.model import Backbone
from unimodel.errors import RunError
from unimodel.memory.writer_lock import lock_holder
from unimodel.run_folder import RunFolder
from unimodel.world.sessions.branching import branch_world
from unimodel.world.sessions.catalogue import delete_world, rewind_world, world_folder, world_names
from unimodel.world.sessions.living import LivingWorld
from unimodel.world.sessions.log import HEAD_FILE, LOG_FILE, read_log
from unimodel.world.sessions.past import Past

MEMORY_FILES = Path("/dev/shm")
each_model = pytest.mark.parametrize("mechanisms", MECHANISMS.values(), ids=MECHANISMS)


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """A folder in memory where there is one: what is killed is a process, not the power."""
    with tempfile.TemporaryDirectory(dir=MEMORY_FILES if MEMORY_FILES.is_dir() else None) as folder:
        yield Path(folder)


def kill_lives(run: Path, backbone: Backbone, kills: int, ticks: int) -> None:
    """Processes live one world, one after the other, each killed at a random moment of a few ticks."""
    toy_world(run)
    rng, shown, in_the_midst = random.Random(0), 0, 0
    for _ in range(kills):
        reader, writer = os.pipe()
        process = multiprocessing.get_context("fork").Process(target=live_for_ever, args=(run, backbone, writer))
        process.start()
        os.close(writer)
        with os.fdopen(reader) as lines:
            first = [lines.readline() for _ in range(1 + 2 * rng.randrange(1, ticks))]
            time.sleep(rng.uniform(0, 0.02))
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            told = [line.split() for line in [*first, *lines]]
        assert told[0][0] == "open" and int(told[0][1]) >= shown, "a tick that was shown is gone"
        begun = max(int(number) for word, number in told if word == "begun")
        shown = max([int(told[0][1]), *(int(number) for word, number in told if word == "shown")])
        in_the_midst += begun > shown
        # All that was shown, or one tick more: killed between the disk and the telling.
        assert Past.of(read_log(world_folder(RunFolder(run), "garden")).entries).tick in (shown, begun)
    world = opened(run, backbone)
    live(world, 3)
    expected = uninterrupted(backbone, world.tick)
    np.testing.assert_array_equal(frames_of(world), expected)
    whole = opened(run, backbone_again(run, backbone), "whole")
    live(whole, world.tick)
    memories = [each._worlds.memory(each._alive()) for each in (world, whole)]
    for name, value in (memories[0] or {}).items():
        assert memories[1] is not None and np.array_equal(value.numpy(), memories[1][name].numpy()), name
    print(f"{kills} kills, {in_the_midst} in the midst of a tick, {world.tick} ticks")
    assert in_the_midst


def backbone_again(run: Path, backbone: Backbone) -> Backbone:
    """The same one, for a world beside the first."""
    toy_world(run, "whole")
    return backbone


@each_model
def test_a_world_is_killed_again_and_again_and_is_the_world_that_never_was(
    mechanisms: list | None, fast_path: Path
) -> None:
    kill_lives(fast_path, backbone_of(mechanisms), kills=4, ticks=5)


@pytest.mark.slow
@each_model
def test_many_kills(mechanisms: list | None, tmp_path: Path) -> None:
    kill_lives(tmp_path, backbone_of(mechanisms), kills=60, ticks=8)


def test_killed_before_any_call_the_last_tick_is_there_or_not(fast_path: Path) -> None:
    """Before every statement of the log and every system call of a tick that ends a segment, and of opening."""
    backbone = backbone_of(MECHANISMS["composed"])
    run = fast_path / "template"
    toy_world(run)
    world = opened(run, backbone)
    live(world, 3)
    world.close()
    expected = uninterrupted(backbone, 6)

    def run_until(folder: Path, at: int | None) -> tuple[int, int]:
        reader, writer = os.pipe()

        def target() -> None:
            killer = Killer(at)
            killer.arm(None)
            lived = opened(folder, backbone)
            lived._log._connection.set_trace_callback(lambda _: killer._count(lambda: None))
            live(lived, 1)
            os.write(writer, b"%d" % killer.calls)

        code = forked(target)
        os.close(writer)
        with os.fdopen(reader) as output:
            return code, int(output.read() or 0)

    shutil.copytree(run, fast_path / "whole")
    code, calls = run_until(fast_path / "whole", None)
    assert code == 0 and calls > 10
    ticks = []
    for at in range(calls):
        folder = fast_path / str(at)
        shutil.copytree(run, folder)
        assert run_until(folder, at)[0] == -signal.SIGKILL
        lived = opened(folder, backbone)
        ticks.append(lived.tick)
        live(lived, 6 - lived.tick)
        np.testing.assert_array_equal(frames_of(lived), expected, err_msg=f"killed before call {at} of {calls}")
        lived.close()
        shutil.rmtree(folder)
    assert set(ticks) == {3, 4} and ticks == sorted(ticks)


def test_killed_while_it_is_made_or_deleted_it_is_there_or_not(fast_path: Path) -> None:
    run = RunFolder(fast_path)
    made = []
    for at in range(100):
        if forked(lambda at=at: (Killer(at).arm(None), toy_world(fast_path))) == 0:
            break
        made.append("garden" in world_names(run))
        shutil.rmtree(run.worlds, ignore_errors=True)
    assert len(made) > 2 and not made[0] and made[-1] and made == sorted(made)
    world = opened(fast_path, backbone_of(None))
    assert world.tick == 0
    world.close()
    for at in range(100):
        if forked(lambda at=at: (Killer(at).arm(None), delete_world(run, "garden"))) == 0:
            break
    assert at and world_names(run) == []
    toy_world(fast_path)
    assert [path.name for path in run.worlds.iterdir()] == ["garden"]  # what the killed ones had begun is gone


def test_the_process_that_lives_it_is_named(fast_path: Path) -> None:
    backbone = backbone_of(None)
    folder = toy_world(fast_path)
    reader, writer = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=live_for_ever, args=(fast_path, backbone, writer))
    process.start()
    try:
        with os.fdopen(reader) as lines:
            lines.readline()
            assert lock_holder(folder / "lock") == process.pid
            for refused in (
                lambda: opened(fast_path, backbone),
                lambda: rewind_world(RunFolder(fast_path), "garden", 0),
                lambda: delete_world(RunFolder(fast_path), "garden"),
            ):
                with pytest.raises(RunError, match=f"process {process.pid}"):
                    refused()
            branch_world(RunFolder(fast_path), "garden", "beside")  # reading is free
            process.kill()
    finally:
        process.kill()
        process.join()
        os.close(writer)
    assert lock_holder(folder / "lock") is None and opened(fast_path, backbone).tick >= 0


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose world was killed, with its last ticks in the write-ahead log alone."""
    run = tmp_path_factory.mktemp("lived")
    toy_world(run)
    backbone = backbone_of(MECHANISMS["recurrent"])

    def target() -> None:
        world = opened(run, backbone)
        live(world, 6)
        world.close()
        world = opened(run, backbone)
        live(world, 6)
        os.kill(os.getpid(), signal.SIGKILL)

    assert forked(target) == -signal.SIGKILL
    assert (world_folder(RunFolder(run), "garden") / f"{LOG_FILE}-wal").stat().st_size
    return run


@pytest.mark.parametrize("file", [LOG_FILE, f"{LOG_FILE}-wal", HEAD_FILE])
def test_a_flipped_byte_is_told_or_changes_nothing(file: str, lived: Path, fast_path: Path) -> None:
    """Wherever it is: never another past, never a shorter one in silence."""
    expected = read_log(world_folder(RunFolder(lived), "garden")).entries
    shutil.copytree(lived, fast_path / "run")
    folder = world_folder(RunFolder(fast_path / "run"), "garden")
    whole = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    rng, told = random.Random(1), 0
    size = len(whole[file])
    for place in range(size) if size < 100 else sorted({*range(40), *rng.sample(range(size), 260)}):
        for name, content in whole.items():
            (folder / name).write_bytes(content)
        (folder / f"{LOG_FILE}-shm").unlink(missing_ok=True)
        (folder / file).write_bytes(
            whole[file][:place] + bytes([whole[file][place] ^ (1 << rng.randrange(8))]) + whole[file][place + 1 :]
        )
        read = read_log(folder)
        assert read.entries == expected[: len(read.entries)]
        if read.damage is None:
            assert read.entries == expected
            continue
        told += 1
        with pytest.raises(ValueError, match=r"is damaged: .* bring .* back from a copy"):
            LivingWorld(folder, worlds_in(backbone_of(MECHANISMS["recurrent"])), MODEL)
    assert told > 10 or file == HEAD_FILE  # which there are two of


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / f"{LOG_FILE}-wal").unlink(),
        lambda folder: (folder / HEAD_FILE).unlink(),
        lambda folder: (folder / LOG_FILE).write_bytes(b""),
        lambda folder: (folder / LOG_FILE).unlink(),
        lambda folder: (os.truncate(folder / LOG_FILE, 4096), (folder / f"{LOG_FILE}-wal").unlink()),
        lambda folder: os.truncate(folder / f"{LOG_FILE}-wal", 9000),
    ],
    ids=["no write-ahead log", "no head", "an empty log", "no log", "half a log", "half a write-ahead log"],
)
def test_a_lost_file_is_no_fresh_world(damage: object, lived: Path, fast_path: Path) -> None:
    shutil.copytree(lived, fast_path / "run")
    folder = world_folder(RunFolder(fast_path / "run"), "garden")
    damage(folder)  # type: ignore[operator]
    with pytest.raises((ValueError, FileNotFoundError), match="is damaged|holds no world"):
        LivingWorld(folder, worlds_in(backbone_of(MECHANISMS["recurrent"])), MODEL)
    with pytest.raises(ValueError, match="has a world 'garden' already"):
        toy_world(fast_path / "run")


def test_what_is_whole_of_a_damaged_world_lives_on_in_a_branch(lived: Path, fast_path: Path) -> None:
    run, backbone = RunFolder(fast_path / "run"), backbone_of(MECHANISMS["recurrent"])
    shutil.copytree(lived, run.path)
    folder = world_folder(run, "garden")
    (folder / f"{LOG_FILE}-wal").unlink()
    with pytest.raises(ValueError, match="has lost its end.*branch RUN garden NEW --tick 6"):
        opened(run.path, backbone)
    with pytest.raises(ValueError, match="has lost its end"):
        branch_world(run, "garden", "rescued")
    assert branch_world(run, "garden", "rescued", 6) == 6
    rescued = opened(run.path, backbone, "rescued")
    live(rescued, 6)
    np.testing.assert_array_equal(frames_of(rescued), uninterrupted(backbone, 12))


def test_a_torn_last_write_leaves_the_last_whole_tick(lived: Path, fast_path: Path) -> None:
    """What a power cut in the midst of a commit leaves: a part of it, and a head that does not know of it."""
    run, backbone = RunFolder(fast_path / "run"), backbone_of(MECHANISMS["recurrent"])
    shutil.copytree(lived, run.path)
    folder = world_folder(run, "garden")
    world = opened(run.path, backbone)
    live(world, 1)
    wal, head = (folder / f"{LOG_FILE}-wal").stat().st_size, (folder / HEAD_FILE).read_bytes()
    copied = fast_path / "torn"
    live(world, 1)
    shutil.copytree(run.path, copied)
    torn = world_folder(RunFolder(copied), "garden")
    grown = (torn / f"{LOG_FILE}-wal").stat().st_size
    assert grown > wal
    os.truncate(torn / f"{LOG_FILE}-wal", wal + 100)
    (torn / HEAD_FILE).write_bytes(head)
    again = opened(copied, backbone)
    assert again.tick == 13
    live(again, 1)
    np.testing.assert_array_equal(frames_of(again), frames_of(world))


def test_a_world_that_is_deleted_while_it_is_lived_says_so(fast_path: Path) -> None:
    backbone = backbone_of(None)
    folder = toy_world(fast_path)
    world = opened(fast_path, backbone)
    live(world, 1)
    shutil.rmtree(folder)
    with pytest.raises(OSError, match="was deleted or replaced while it was lived"):
        live(world, 1)
    assert world.tick == 1


def test_a_full_disk_refuses_the_tick_and_loses_nothing(tmp_path: Path) -> None:
    disk, backbone = tmp_path / "disk", backbone_of(MECHANISMS["composed"])
    disk.mkdir()
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True, check=False)
    if mounting.returncode:
        pytest.skip("file systems of one megabyte can be mounted by root only")
    try:
        toy_world(disk)
        world = opened(disk, backbone)
        live(world, 4)
        with (disk / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                pass
        before = world.tick
        with pytest.raises(OSError, match="no room on the disk: nothing of this was stored"):
            for _ in range(200):  # there may be room left in the log
                live(world, 1)
        refused = world.tick
        assert before <= refused < 204
        with pytest.raises(OSError, match="no room"):
            branch_world(RunFolder(disk), "garden", "branch")
        assert world_names(RunFolder(disk)) == ["garden"]
        (disk / "filler").unlink()
        live(world, 3)
        np.testing.assert_array_equal(frames_of(world), uninterrupted(backbone, refused + 3))
        world.close()
        assert opened(disk, backbone).tick == refused + 3
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
