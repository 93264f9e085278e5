"""Looks at every node before the training starts, and names the bad ones (`unimodel train --check`).

Checked: versions, GPUs, clocks, free disk, that the run's folder is the same one everywhere, and an all-reduce with its
bandwidth.
"""

from __future__ import annotations

import shutil
import socket
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed as dist

from unimodel.errors import RunError
from unimodel.observe.progress import say
from unimodel.run_folder import RunFolder
from unimodel.training.collective import from_all_ranks, from_main_rank

LEAST_FREE_GIGABYTES = 5.0
MOST_CLOCK_SECONDS = 5.0
"""Clocks that differ by more confuse logs, caches and object stores."""
CPU = "cpu"
SLOW_FRACTION = 0.5
"""A GPU whose memory bandwidth is below this part of the median slows all others."""
REDUCE_BYTES, REDUCE_REPEATS = 1 << 24, 5


@dataclass(frozen=True, slots=True)
class Facts:
    """What one rank sees of its node."""

    host: str
    rank: int
    versions: str
    device: str
    clock_seconds: float
    free_gigabytes: float
    sees_run_folder: bool
    copy_gigabytes_per_second: float


def find_problems(facts: Sequence[Facts]) -> list[str]:
    """What is wrong with whom. Pure: `facts` are those of all ranks."""
    problems = []
    typical = statistics.median(one.copy_gigabytes_per_second for one in facts)
    clock = statistics.median(one.clock_seconds for one in facts)
    versions, device = (statistics.mode(getattr(one, name) for one in facts) for name in ("versions", "device"))
    for one in facts:
        if one.versions != versions:
            problems.append(f"{one.host}: has {one.versions}, most have {versions}")
        if one.device != device:
            problems.append(f"{one.host}: rank {one.rank} is on {one.device}, most are on {device}")
        if not one.sees_run_folder:
            problems.append(
                f"{one.host}: does not see the run's folder as rank 0 does; put runs_folder on a shared disk"
            )
        if one.free_gigabytes < LEAST_FREE_GIGABYTES:
            problems.append(f"{one.host}: {one.free_gigabytes:.1f} GB free where the run is written")
        if abs(one.clock_seconds - clock) > MOST_CLOCK_SECONDS:
            problems.append(f"{one.host}: its clock is {one.clock_seconds - clock:+.0f} seconds off")
        if one.device != CPU and one.copy_gigabytes_per_second < SLOW_FRACTION * typical:
            speed = one.copy_gigabytes_per_second
            problems.append(f"{one.host}: rank {one.rank} copies {speed:.1f} GB/s, most {typical:.1f}")
    return list(dict.fromkeys(problems))


def check_nodes(run: RunFolder, device: torch.device) -> None:
    """Looks at all nodes and shows what it found. Collective; raises RunError on all ranks, naming the bad hosts."""
    token = run.path / f".check-{from_main_rank(uuid.uuid4().hex)}"
    if dist.get_rank() == 0:
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch()
    dist.barrier()
    facts = from_all_ranks(_facts(token, device))
    dist.barrier()
    bandwidth = _all_reduce_bandwidth(device)
    if dist.get_rank() == 0:
        token.unlink()
        _show(facts, bandwidth)
    problems = find_problems(facts)
    if problems:
        raise RunError(f"bad nodes: {'; '.join(problems)}")


def _facts(token: Path, device: torch.device) -> Facts:
    existing = next(folder for folder in token.absolute().parents if folder.exists())
    return Facts(
        host=socket.gethostname(),
        rank=dist.get_rank(),
        versions=", ".join(f"{name} {version(name)}" for name in ("torch", "deepspeed", "transformers")),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else CPU,
        clock_seconds=time.time(),
        free_gigabytes=shutil.disk_usage(existing).free / 1e9,
        sees_run_folder=token.exists(),
        copy_gigabytes_per_second=_copy_speed(device),
    )


def _copy_speed(device: torch.device) -> float:
    source = torch.ones(1 << 26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = [_timed(lambda: target.copy_(source), device) for _ in range(REDUCE_REPEATS)]
    return source.numel() / 1e9 / min(seconds)


def _all_reduce_bandwidth(device: torch.device) -> float:
    """Gigabytes per second that cross each rank's link in a ring: 2 (n - 1) / n of the data (NCCL tests, "bus")."""
    ranks = dist.get_world_size()
    data = torch.ones(REDUCE_BYTES // 4, device=device)
    seconds = [_timed(lambda: dist.all_reduce(data), device) for _ in range(REDUCE_REPEATS)]
    return REDUCE_BYTES * 2 * (ranks - 1) / ranks / 1e9 / statistics.median(seconds)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _show(facts: Sequence[Facts], bandwidth: float) -> None:
    hosts = {one.host: [f for f in facts if f.host == one.host] for one in facts}
    for host, ranks in hosts.items():
        speed = min(one.copy_gigabytes_per_second for one in ranks)
        free = ranks[0].free_gigabytes
        say(f"node {host}: {len(ranks)} x {ranks[0].device}, copies {speed:.1f} GB/s, {free:,.0f} GB free")
    if len(facts) > 1:
        say(f"all-reduce over {len(facts)} ranks: {bandwidth:.2f} GB/s a link")
