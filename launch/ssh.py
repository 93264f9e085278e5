"""Several hosts over ssh: the same command on each, in the same folder; output comes back with the host before it.

A host's agent stops when its standard input ends, so none outlives this process, whatever becomes of the network. When
an agent is lost (its machine, its connection), all are stopped and started again from the last checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from launch.job import DEFAULT_PORT, FAILED, MISTAKE, REQUEUE, Job, shell_line, working_folder
from unimodel.observe.progress import say

CONNECT_SECONDS = 10
SSH = ("ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}", "-o", "ServerAliveInterval=5")
FORWARDED = ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "NCCL_DEBUG", "HF_HOME", "HF_HUB_OFFLINE")
"""Variables that hosts get as they are here."""
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Host:
    """A line of a hostfile."""

    name: str
    slots: int
    """Processes: one per GPU."""


def read_hostfile(path: Path) -> list[Host]:
    """DeepSpeed's format: `NAME slots=N` lines, `#` starts a comment. Raises ValueError naming the line."""
    hosts: list[Host] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if len(words) != 2 or not words[1].startswith("slots=") or not words[1][6:].isdigit() or words[1] == "slots=0":
            raise ValueError(f"{path}, line {number}: '{line.strip()}' is not of the form `NAME slots=N`")
        if words[0] in (host.name for host in hosts):
            raise ValueError(f"{path}, line {number}: {words[0]} is there twice")
        hosts.append(Host(words[0], int(words[1][6:])))
    if not hosts:
        raise ValueError(f"{path} names no host: write one `NAME slots=N` line for each")
    if len({host.slots for host in hosts}) > 1:
        raise ValueError(f"{path}: hosts have different numbers of slots; give each as many as the smallest has")
    return hosts


def host_commands(job: Job, hosts: Sequence[Host], endpoint: str | None, python: str) -> list[list[str]]:
    """The ssh command of every host. The first one's name is where they meet, unless there is an `endpoint`."""
    job = replace(job, nodes=len(hosts), processes=hosts[0].slots)
    endpoint = endpoint or f"{hosts[0].name}:{DEFAULT_PORT}"
    variables = [f"{name}={os.environ[name]}" for name in FORWARDED if name in os.environ]
    commands = []
    for host in hosts:
        node = job.node_command(endpoint, address=host.name, python=python, follow_input=True)
        line = f"cd {shell_line([str(working_folder())])} && exec {shell_line(['env', *variables, *node])}"
        commands.append([*SSH, host.name, line])
    return commands


def require_reachable(hosts: Sequence[Host]) -> None:
    """Raises ValueError naming every host that does not answer."""

    def problem(host: Host) -> str | None:
        done = subprocess.run([*SSH, host.name, "true"], capture_output=True, text=True, check=False)
        return None if done.returncode == 0 else f"{host.name} ({done.stderr.strip().splitlines()[-1:] or 'no answer'})"

    with ThreadPoolExecutor(32) as pool:
        problems = [found for found in pool.map(problem, hosts) if found]
    if problems:
        raise ValueError(f"not reachable by ssh without a password: {', '.join(problems)}; see `ssh -v HOST`")


def launch_ssh(job: Job, hosts: Sequence[Host], endpoint: str | None, python: str) -> int:
    """Trains on all hosts to the end; returns the exit status. Raises ValueError for hosts that do not answer."""
    require_reachable(hosts)
    commands = host_commands(job, hosts, endpoint, python)
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, on_signal)
    for attempt in range(job.max_restarts + 1):
        if attempt:
            say(f"all hosts are started again ({attempt} of {job.max_restarts})")
        status = _Round(hosts, commands).run(stop, job.stop_seconds)
        if status in (0, REQUEUE, MISTAKE):
            return status
    return FAILED


class _Round:
    """All hosts from one start to their end."""

    def __init__(self, hosts: Sequence[Host], commands: Sequence[list[str]]) -> None:
        self._hosts = hosts
        self._nodes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for command in commands
        ]
        self._readers = [
            threading.Thread(target=_show, args=(host.name, node), daemon=True)
            for host, node in zip(hosts, self._nodes, strict=True)
        ]
        for reader in self._readers:
            reader.start()

    def run(self, stop: threading.Event, stop_seconds: int) -> int:
        """Waits until all have ended well, or one has not; then for the others. Returns the worst status."""
        while any(node.poll() is None for node in self._nodes):
            ill = [i for i, node in enumerate(self._nodes) if node.poll() not in (None, 0)]
            if ill or stop.is_set():
                for i in ill:
                    say(f"{self._hosts[i].name}: {_how(self._nodes[i].returncode)}")
                self._end(stop_seconds)
                break
            time.sleep(POLL_SECONDS)
        for reader in self._readers:
            reader.join(POLL_SECONDS)
        statuses = {node.returncode for node in self._nodes}
        if MISTAKE in statuses:
            return MISTAKE
        if stop.is_set():
            return REQUEUE
        return 0 if statuses == {0} else FAILED

    def _end(self, stop_seconds: int) -> None:
        """Ends their input: agents stop, save and leave. What does not is cut off."""
        for node in self._nodes:
            assert node.stdin is not None
            node.stdin.close()
        deadline = time.monotonic() + 2 * stop_seconds
        for node in self._nodes:
            try:
                node.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()


def _show(host: str, node: subprocess.Popen[bytes]) -> None:
    assert node.stdout is not None
    for line in node.stdout:
        sys.stdout.write(f"{host}: {line.decode(errors='replace')}")
        sys.stdout.flush()


def _how(status: int) -> str:
    if status == 255:  # ssh's own
        return "the connection was lost"
    return "asked to be started again" if status == REQUEUE else f"its agent ended with exit status {status}"
