"""Two nodes with real separation, over ssh and over torchrun's rendezvous: one is killed, the run mends itself.

Needs root, iproute2 and openssh-server. Run: pytest -m slow tests/distributed/test_two_nodes.py
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from killed_processes import wait_for
from tiny_run import ROOT, TinyRun, command, environment, require_same_end, tiny_run
from two_hosts import HOSTS, TwoHosts, missing, two_hosts

pytestmark = pytest.mark.slow
SETTINGS = ("stages.masked.steps=60", "checkpoint.every_steps=5", "engine.zero=1")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with two_hosts(tmp_path_factory.mktemp("hosts"), environment()) as both:
        yield both


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Two ranks on one node, never disturbed."""
    run = tiny_run(tmp_path_factory.mktemp("undisturbed"), *SETTINGS, stages=("masked",))
    done = command("train", str(run.config_file), ranks=2)
    assert done.returncode == 0, done.stderr
    return run


def processes_of(host: str, word: str) -> list[int]:
    """Processes on a host that have `word` among their arguments."""
    listed = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=True).stdout.split()
    found = []
    for pid in map(int, listed):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if word.encode() in words and b"python" in words[0]:
            found.append(pid)
    return found


def end(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def launch_over_ssh(hosts: TwoHosts, run: TinyRun) -> subprocess.Popen[str]:
    words = ["-m", "unimodel", "launch", "ssh", str(run.config_file), "--hostfile", str(hosts.hostfile)]
    return hosts.on("node1", sys.executable, *words, "--stop-seconds", "20", cwd=ROOT)


def test_launched_over_ssh_and_killed_on_one_node(hosts: TwoHosts, undisturbed: TinyRun, tmp_path: Path) -> None:
    """A rank of the second node: torch's agents start all ranks again."""
    run = tiny_run(tmp_path, *SETTINGS, stages=("masked",))
    process = launch_over_ssh(hosts, run)
    wait_for(lambda: run.num_lines() >= 12 or process.poll() is not None, "steps")
    (rank,) = processes_of("node2", "train")
    os.kill(rank, signal.SIGKILL)
    out = end(process)
    assert "GB free" in out and "all-reduce over 2 ranks" in out, out
    require_same_end(run, undisturbed)
    assert not any(processes_of(host, "unimodel") for host in HOSTS)


def test_an_agent_that_is_lost_is_started_again_over_ssh(hosts: TwoHosts, undisturbed: TinyRun, tmp_path: Path) -> None:
    """As if the machine were gone: its agent and its rank are killed."""
    run = tiny_run(tmp_path, *SETTINGS, stages=("masked",))
    process = launch_over_ssh(hosts, run)
    wait_for(lambda: run.num_lines() >= 12 or process.poll() is not None, "steps")
    for pid in processes_of("node2", "unimodel"):
        os.kill(pid, signal.SIGKILL)
    out = end(process)
    assert "all hosts are started again (1 of 3)" in out, out
    require_same_end(run, undisturbed)


def test_agents_stop_and_save_when_the_launcher_is_killed(
    hosts: TwoHosts, undisturbed: TinyRun, tmp_path: Path
) -> None:
    run = tiny_run(tmp_path, *SETTINGS, stages=("masked",))
    process = launch_over_ssh(hosts, run)
    wait_for(lambda: run.num_lines() >= 12 or process.poll() is not None, "steps")
    process.kill()
    process.wait()
    wait_for(lambda: not any(processes_of(host, "unimodel") for host in HOSTS), "agents to leave")
    assert run.num_lines() < 60
    end(launch_over_ssh(hosts, run))
    require_same_end(run, undisturbed)


def test_torchruns_rendezvous_mends_a_killed_rank(hosts: TwoHosts, undisturbed: TinyRun, tmp_path: Path) -> None:
    """Plain torchrun on both nodes, as any scheduler would start it."""
    run = tiny_run(tmp_path, *SETTINGS, stages=("masked",))

    def start(host: str) -> subprocess.Popen[str]:
        options = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d"]
        options += ["--rdzv-endpoint=node1:29511", f"--local-addr={host}"]
        words = ["-m", "torch.distributed.run", *options, "-m", "unimodel", "train", str(run.config_file)]
        # Without it ranks that are started again find the addresses of dead ones (torch 2.13).
        return hosts.on(host, "env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", sys.executable, *words, cwd=ROOT)

    nodes = [start(host) for host in HOSTS]
    wait_for(lambda: run.num_lines() >= 12 or nodes[0].poll() is not None, "steps")
    ranks = [pid for pid in processes_of("node2", "train") if b"torch.distributed.run" not in _words(pid)]
    os.kill(ranks[0], signal.SIGKILL)
    for node in nodes:
        end(node)
    require_same_end(run, undisturbed)


def _words(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def test_a_config_mistake_ends_all_within_seconds(hosts: TwoHosts, tmp_path: Path) -> None:
    """One message, and nothing is started again."""
    run = tiny_run(tmp_path, *SETTINGS, stages=("masked",))
    end(launch_over_ssh(hosts, run))
    text = run.config_file.read_text().replace("seed: 11", "seed: 12")
    assert text != run.config_file.read_text()
    run.config_file.write_text(text)
    began = time.monotonic()
    process = launch_over_ssh(hosts, run)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2, out
    assert "seed (was 11, is 12)" in out and "Traceback" not in out and "started again" not in out, out
    assert time.monotonic() - began < 120
