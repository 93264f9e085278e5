"""Slurm: a batch script that starts one agent per node and queues itself again when time is up."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.job import DEFAULT_PORT, REQUEUE, Job, shell_line, working_folder
from launch.templates import render
from unimodel.run_folder import RunFolder, write_atomically

HEAD = "RENDEZVOUS_HOST"
TIME = re.compile(r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}")
OPTION = re.compile(r"[a-z][a-z-]*(=[^\s;|&`$]+)?")


@dataclass(frozen=True, slots=True)
class SlurmSettings:
    """What the queue needs to know."""

    time: str
    """Longest run of one allocation: MINUTES, HH:MM:SS or D-HH; the job goes on in the next."""
    gpus: int
    """Per node; 0 for a machine without."""
    cpus: int
    """Per node."""
    options: Sequence[str] = ()
    """More lines for sbatch: `partition=long`."""


def slurm_script(job: Job, name: str, run: RunFolder, settings: SlurmSettings) -> str:
    """The batch script. Raises ValueError for a time or an option that sbatch would not take."""
    if not TIME.fullmatch(settings.time):
        raise ValueError(f"--time {settings.time}: write MINUTES, HH:MM:SS, D-HH or D-HH:MM:SS")
    for option in settings.options:
        if not OPTION.fullmatch(option):
            raise ValueError(f"--sbatch {option}: write it as name=value or name, as in `partition=long`")
    command = shell_line(job.node_command(f"{HEAD}:{DEFAULT_PORT}")).replace(HEAD, '"$head"')
    return render(
        "slurm.sh.j2",
        name=name,
        nodes=job.nodes,
        gpus=settings.gpus,
        cpus=settings.cpus,
        time=settings.time,
        options=settings.options,
        signal_seconds=job.stop_seconds + 60,
        wait_seconds=job.stop_seconds,
        output=run.path.absolute() / "slurm-%j.txt",
        folder=shlex.quote(str(working_folder())),
        command=command,
        requeue=REQUEUE,
    )


def submit(script: str, run: RunFolder) -> str:
    """Writes the script into the run's folder and gives it to sbatch; returns what sbatch says.

    Raises ValueError when there is no sbatch or it refuses the script.
    """
    if shutil.which("sbatch") is None:
        raise ValueError("there is no sbatch on this machine: run this where jobs are submitted, or see --dry-run")
    file: Path = run.path / "job.sbatch"
    write_atomically(file, script.encode())
    done = subprocess.run(["sbatch", str(file)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"sbatch refused {file}: {done.stderr.strip()}")
    return done.stdout.strip()
