"""A run under attack: processes killed and stopped, checkpoints damaged, the disk filled, the loss made not finite.

`Chaos` starts `unimodel launch local` once and never again; whatever it does to the run, the run must mend by itself.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from killed_processes import children_of
from tiny_run import ROOT, TinyRun, environment

from unimodel.training.checkpoint import list_checkpoints

POISON = """
import os, sys, importlib.abc, importlib.util

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "unimodel.training.stage_trainer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            poison(module)
        spec.loader.exec_module = exec_module
        return spec

def poison(module):
    steps, train_step, step = {steps}, module.train_step, module.StageTrainer._step
    def poisoned(self, stage_step):
        global number
        number = self.position.step + 1
        return step(self, stage_step)
    def train(engine, batch, *rest, **more):
        if number in steps:
            batch.weight.mul_(float("nan"))
        return train_step(engine, batch, *rest, **more)
    module.StageTrainer._step, module.train_step = poisoned, train

number = 0
sys.meta_path.insert(0, Finder())
"""
"""A `sitecustomize.py` that makes the loss of given steps not finite, in every process and every time they are run."""

STEPS_BETWEEN = 4
"""Of progress between two events: more than between two checkpoints, or the run would never end."""
WAIT_SECONDS = 300.0


@dataclass
class Chaos:
    """Attacks one run until it has had `most_events` of them or ends."""

    run: TinyRun
    ranks: int
    seed: int
    poisoned_steps: tuple[int, ...] = ()
    hang_seconds: int = 15
    disk: Path | None = None
    """A small file system on which the checkpoints lie."""
    events: Counter[str] = field(default_factory=Counter)

    def start(self) -> subprocess.Popen[bytes]:
        scratch = self.run.config_file.parent / "site"
        scratch.mkdir(exist_ok=True)
        (scratch / "sitecustomize.py").write_text(POISON.replace("{steps}", repr(set(self.poisoned_steps))))
        variables = environment() | {"PYTHONPATH": f"{scratch}{os.pathsep}{ROOT}"}
        command = [sys.executable, "-m", "unimodel", "launch", "local", str(self.run.config_file)]
        command += ["--processes", str(self.ranks), "--max-restarts", "1000", "--stop-seconds", "10"]
        with (self.run.config_file.parent / "output.txt").open("ab") as output:
            return subprocess.Popen(command, env=variables, cwd=ROOT, stdout=output, stderr=output)

    def attack(self, most_events: int) -> int:
        """Runs it under attack; returns the exit status of the one command that was given."""
        chooser = random.Random(self.seed)
        attacks = [self.kill_a_rank, self.terminate_a_rank, self.stop_a_rank, self.flip_a_bit, self.truncate_a_file]
        attacks += [self.fill_the_disk] if self.disk else []
        bag: list[Callable[[subprocess.Popen[bytes], random.Random], bool]] = []
        process = self.start()
        try:
            last_lines = 0
            while process.poll() is None:
                last_lines = min(last_lines, self.run.num_lines())  # a run that went back has fewer
                moved = self.run.num_lines() >= last_lines + STEPS_BETWEEN and bool(ranks_of(process))
                if sum(self.events.values()) < most_events and moved:
                    last_lines = self.run.num_lines()
                    if not bag:
                        bag = chooser.sample(attacks, len(attacks))
                    attack = bag.pop()
                    if attack(process, chooser):
                        self.events[attack.__name__] += 1
                time.sleep(0.05)
        finally:
            process.kill()
        return process.returncode

    def kill_a_rank(self, process: subprocess.Popen[bytes], chooser: random.Random) -> bool:
        return _signal(process, chooser, signal.SIGKILL)

    def terminate_a_rank(self, process: subprocess.Popen[bytes], chooser: random.Random) -> bool:
        return _signal(process, chooser, signal.SIGTERM)

    def stop_a_rank(self, process: subprocess.Popen[bytes], chooser: random.Random) -> bool:
        return _signal(process, chooser, signal.SIGSTOP)

    def flip_a_bit(self, process: subprocess.Popen[bytes], chooser: random.Random) -> bool:
        """In the newest checkpoint, which is then needed."""

        def flip(file: Path) -> None:
            content = bytearray(file.read_bytes())
            content[chooser.randrange(len(content))] ^= 1 << chooser.randrange(8)
            file.write_bytes(content)

        return self._damage(process, chooser, flip)

    def truncate_a_file(self, process: subprocess.Popen[bytes], chooser: random.Random) -> bool:
        def truncate(file: Path) -> None:
            os.truncate(file, chooser.randrange(file.stat().st_size))

        return self._damage(process, chooser, truncate)

    def _damage(self, process: subprocess.Popen[bytes], chooser: random.Random, damage: Callable[[Path], None]) -> bool:
        """Of all checkpoints the last whole one must stay: with fewer than two nothing is damaged."""
        found = list_checkpoints(self.run.run.checkpoints)
        if len(found) < 3:
            return False
        try:
            damage(chooser.choice(sorted(found[0].iterdir())))
        except OSError:  # pruned in this moment
            return False
        return _signal(process, chooser, signal.SIGKILL)

    def fill_the_disk(self, process: subprocess.Popen[bytes], chooser: random.Random) -> bool:
        """Until a checkpoint could not be written, or the run has moved on without one."""
        assert self.disk is not None
        lines, log = self.run.num_lines(), self.run.run.log
        failures = log.read_text().count("could not be written")
        ballast = self.disk / ".ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 14))
            except OSError:
                pass
        deadline = time.monotonic() + WAIT_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if log.read_text().count("could not be written") > failures:
                break
            if self.run.num_lines() > lines + 8:
                break
            time.sleep(0.05)
        ballast.unlink()
        return True


def ranks_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that train, by their command line."""
    found = []
    for child in children_of(process.pid):
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"train" in words:
            found.append(child)
    return found


def _signal(process: subprocess.Popen[bytes], chooser: random.Random, number: signal.Signals) -> bool:
    ranks = ranks_of(process)
    if not ranks:
        return False
    try:
        os.kill(chooser.choice(ranks), number)
    except ProcessLookupError:
        return False
    return True
