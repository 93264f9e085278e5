"""One node's part of a job: torch's elastic agent starts its processes, and all again when one of them fails.

Agents of several nodes meet at an endpoint (torch's c10d rendezvous): when processes of one node are started again,
those of the others are too, and the run goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, launch_agent

from launch.job import FAILED, MISTAKE, REQUEUE, Job
from unimodel.errors import AGENT_VARIABLE, MISTAKE_SIGNAL
from unimodel.observe.progress import say

for name in list(logging.root.manager.loggerDict):
    if name.startswith("torch.distributed.elastic"):
        logging.getLogger(name).setLevel(logging.ERROR)  # warnings tell of every signal that is sent
# Otherwise ranks that are started again meet in the store of those before, and find the addresses of dead processes.
os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # nodes leave at slightly different times, which torch warns of
MONITOR_SECONDS = 0.5
JOIN_SECONDS = 900
"""How long nodes wait for each other."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def run_node(job: Job, endpoint: str | None, address: str | None = None, *, follow_input: bool = False) -> int:
    """Trains to the end, or until asked to stop; returns the exit status. `endpoint` may be left out on one node;
    `address` is how other nodes reach this one, its host name otherwise."""
    if endpoint is None:
        endpoint, address = "127.0.0.1:0", "127.0.0.1"  # any free port
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // job.processes)))
    if follow_input:
        threading.Thread(target=_stop_with_input, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="unimodel-agent-") as folder:
        os.environ[AGENT_VARIABLE] = f"{os.getpid()}:{folder}"
        return _run(job, endpoint, address)


def _run(job: Job, endpoint: str, address: str | None) -> int:
    config = LaunchConfig(
        min_nodes=job.nodes,
        max_nodes=job.nodes,
        nproc_per_node=job.processes,
        run_id="unimodel",
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        local_addr=address,
        rdzv_configs={"timeout": JOIN_SECONDS},
        max_restarts=job.max_restarts,
        monitor_interval=MONITOR_SECONDS,
        signals_to_handle=",".join(number.name for number in (*STOP_SIGNALS, MISTAKE_SIGNAL)),
        shutdown_timeout=job.stop_seconds,
    )
    try:
        launch_agent(config, job.train_command[0], job.train_command[1:])
    except SignalException as asked:
        if asked.sigval == MISTAKE_SIGNAL:
            return MISTAKE
        say(f"stopped by {asked.sigval.name}; the same command goes on from the last checkpoint")
        return REQUEUE
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        say(f"rank {rank} (process {failure.pid}) {_how(failure.exitcode)}, after {job.max_restarts} restarts")
        return FAILED
    return 0


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"


def _stop_with_input() -> None:
    """Whoever started this node is gone, or wants it to stop."""
    while os.read(sys.stdin.fileno(), 1 << 12):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
