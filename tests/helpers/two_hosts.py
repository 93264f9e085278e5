"""Two hosts on one machine: network namespaces with addresses, names and an sshd of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOSTS = {"node1": "10.77.0.1", "node2": "10.77.0.2"}
INTERFACE = "veth0"
NEEDED = ("ip", "sshd", "ssh", "ssh-keygen")


def missing() -> str | None:
    """What this machine lacks for it."""
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    absent = [name for name in NEEDED if shutil.which(name, path=search) is None]
    if absent:
        return f"needs {', '.join(absent)}: apt install iproute2 openssh-server"
    made = subprocess.run(["ip", "netns", "add", "um-probe"], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not permitted here: {made.stderr.strip()}"
    _run("ip", "netns", "delete", "um-probe")
    return None


@dataclass(frozen=True)
class TwoHosts:
    """`environment` has an `ssh` on its PATH that trusts both."""

    environment: dict[str, str]
    hostfile: Path

    def on(self, host: str, *command: str, **options: object) -> subprocess.Popen[str]:
        """Starts a command on a host."""
        return subprocess.Popen(
            ["ip", "netns", "exec", host, *command],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,  # pyright: ignore[reportArgumentType]
        )


@contextmanager
def two_hosts(folder: Path, environment: dict[str, str]) -> Iterator[TwoHosts]:
    """Both up and reachable from each other; gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for host, address in HOSTS.items():
            _run("ip", "netns", "add", host)
            _run("ip", "-n", host, "link", "set", "lo", "up")
            etc = Path("/etc/netns") / host
            etc.mkdir(parents=True, exist_ok=True)
            names = "".join(f"{where} {name}\n" for name, where in HOSTS.items())
            (etc / "hosts").write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n{names}")
        _run(
            "ip",
            "link",
            "add",
            INTERFACE,
            "netns",
            "node1",
            "type",
            "veth",
            "peer",
            "name",
            INTERFACE,
            "netns",
            "node2",
        )
        for host, address in HOSTS.items():
            _run("ip", "-n", host, "address", "add", f"{address}/24", "dev", INTERFACE)
            _run("ip", "-n", host, "link", "set", INTERFACE, "up")
        config = _keys(folder)
        sshd = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin")
        assert sshd is not None
        Path("/run/sshd").mkdir(exist_ok=True)
        for host in HOSTS:
            daemons.append(subprocess.Popen(["ip", "netns", "exec", host, sshd, "-D", "-f", str(config)]))
        hostfile = folder / "hostfile"
        hostfile.write_text("".join(f"{host} slots=1\n" for host in HOSTS))
        path = f"{folder / 'bin'}:{environment['PATH']}:/usr/sbin:/sbin"
        yield TwoHosts(environment | {"PATH": path, "GLOO_SOCKET_IFNAME": INTERFACE}, hostfile)
    finally:
        for daemon in daemons:
            daemon.kill()
            daemon.wait()
        for host in HOSTS:
            pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False).stdout
            for pid in pids.split():
                subprocess.run(["kill", "-9", pid], check=False)
            subprocess.run(["ip", "netns", "delete", host], check=False)
            shutil.rmtree(Path("/etc/netns") / host, ignore_errors=True)


def _keys(folder: Path) -> Path:
    """Keys and settings of both sides; returns sshd's settings."""
    for name in ("host_key", "user_key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    authorized = folder / "authorized_keys"
    authorized.write_text((folder / "user_key.pub").read_text())
    config = folder / "sshd_config"
    config.write_text(
        f"HostKey {folder / 'host_key'}\nAuthorizedKeysFile {authorized}\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPidFile none\nPrintMotd no\n"
    )
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir(exist_ok=True)
    options = f"-i {folder / 'user_key'} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F none {options} "$@"\n')
    ssh.chmod(0o755)
    return config


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
