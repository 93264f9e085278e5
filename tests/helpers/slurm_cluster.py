"""A real Slurm on this machine: one controller and two nodes, as Debian's slurm-wlm has them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
NEEDED = ("slurmctld", "slurmd", "sbatch", "scontrol", "munged")
START_SECONDS = 60.0

CONFIG = """
ClusterName=unimodel
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobRequeue=1
MpiDefault=none
KillWait=10
ReturnToService=2
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def missing() -> str | None:
    """What this machine lacks for it."""
    absent = [name for name in NEEDED if shutil.which(name, path=SYSTEM_PATH) is None]
    if absent:
        return f"needs {', '.join(absent)}: apt install slurm-wlm munge"
    return None if os.geteuid() == 0 else "needs root"


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Up until the block ends; gives the variables with which sbatch finds it."""
    (folder / "state").mkdir(parents=True)
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    config = folder / "slurm.conf"
    port = _free_ports(3)
    values = {"host": socket.gethostname(), "folder": folder, "port": port, "first": port + 1, "last": port + 2}
    config.write_text(CONFIG.format(**values, cpus=os.cpu_count()))
    variables = {"SLURM_CONF": str(config)}
    environment = os.environ | variables | {"PATH": SYSTEM_PATH}
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munge += [f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed"]
    commands = [munge, ["slurmctld", "-D"], *(["slurmd", "-D", "-N", f"node{number}"] for number in (1, 2))]
    daemons: list[subprocess.Popen[bytes]] = []
    hosts = Path("/etc/hosts")
    before = hosts.read_text()
    try:
        hosts.write_text(f"{before.rstrip()}\n127.0.0.1 node1 node2\n")  # nodes of a cluster know each other's names
        for command in commands:
            with (folder / "daemons.log").open("ab") as log:
                daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(1.0)
        _wait_until_idle(environment, folder)
        yield variables
    finally:
        hosts.write_text(before)
        subprocess.run(["scancel", "--user=root", "--signal=KILL"], env=environment, check=False, capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        shown = subprocess.run(
            ["sinfo", "-h", "-o", "%T %D"], env=environment, capture_output=True, text=True, check=False
        )
        if shown.stdout.split() == ["idle", "2"]:
            return
        time.sleep(0.5)
    logs = "\n".join(file.read_text(errors="replace")[-2000:] for file in sorted(folder.glob("*.log")))
    raise RuntimeError(f"slurm did not come up: {shown.stdout} {shown.stderr}\n{logs}")


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free now."""
    for first in range(26_817, 60_000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports")
