"""A run of 200 steps that is attacked 50 times and mends itself every time: it ends as if nothing had happened.

Losses of two steps are made not finite in both runs, so that skipping is part of it. Needs root for the small disk.
Run: make chaos
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import Chaos
from tiny_run import TinyRun, require_same_end, tiny_run

from unimodel.training.checkpoint import list_checkpoints, load_checkpoint

pytestmark = pytest.mark.slow
EVENTS, STEPS = 50, 600
POISONED = (61, 390)
SETTINGS = (
    f"stages.masked.steps={STEPS // 2}",
    f"stages.interactive.steps={STEPS // 2}",
    "checkpoint.every_steps=3",
    "checkpoint.keep_last=4",
    "engine.zero=1",
    "data.workers=1",
)
IMPATIENT = ("faults.hang_seconds=15", "faults.pause_seconds=30", "engine.communication_minutes=0.5")
STAGES = ("masked", "interactive")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """Room for the checkpoints of the run and little more; None where none can be made."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    yield folder if made.returncode == 0 else None
    if made.returncode == 0:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def seen(run: TinyRun) -> list[tuple[int, int]]:
    """What the steps consumed: the step and its tokens."""
    return [(line["step"], line["tokens"]) for line in run.metrics()]


def test_a_run_under_attack_ends_as_if_nothing_had_happened(tmp_path: Path, small_disk: Path | None) -> None:
    """C3."""
    calm = tiny_run(tmp_path / "calm", *SETTINGS, stages=STAGES)
    assert Chaos(calm, ranks=2, seed=0, poisoned_steps=POISONED).attack(0) == 0
    attacked = tiny_run(tmp_path / "attacked", *SETTINGS, *IMPATIENT, stages=STAGES)
    if small_disk:
        attacked.run.checkpoints.symlink_to(small_disk)
    chaos = Chaos(attacked, ranks=2, seed=1, poisoned_steps=POISONED, disk=small_disk)
    began = time.monotonic()
    status = chaos.attack(EVENTS)
    seconds = time.monotonic() - began
    output = (attacked.config_file.parent / "output.txt").read_text()
    assert status == 0, output[-5000:]
    counts = ", ".join(f"{count} {name}" for name, count in sorted(chaos.events.items()))
    final = [run.metrics()[-1]["loss"] for run in (calm, attacked)]
    print(f"\n{sum(chaos.events.values())} events in {STEPS} steps ({counts}), {seconds:.0f} s")
    starts = len(attacked.run.starts.read_text().splitlines())
    print(f"trained from {starts} starts, fallbacks {output.count('falling back')}, ", end="")
    print(f"final loss {final[1]!r}, undisturbed {final[0]!r}")
    assert sum(chaos.events.values()) >= EVENTS
    skipped = [line["step"] for line in attacked.metrics() if line.get("skipped")]
    assert skipped == list(POISONED) == [line["step"] for line in calm.metrics() if line.get("skipped")]
    assert seen(attacked) == seen(calm)
    assert json.dumps(attacked.metrics()) == json.dumps(calm.metrics())
    require_same_end(attacked, calm)
    streams = [load_checkpoint(list_checkpoints(run.run.checkpoints)[0]).position for run in (calm, attacked)]
    assert streams[0] == streams[1]
