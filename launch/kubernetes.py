"""Kubernetes: an indexed Job with a headless Service, one pod per node, on a shared volume."""

from __future__ import annotations

import re
from dataclasses import dataclass

from launch.job import DEFAULT_PORT, MISTAKE, REQUEUE, Job
from launch.templates import render

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?")
"""Names of Kubernetes objects (RFC 1123); short enough that pods can add their number."""
QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTP]i?)?")


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """What the cluster needs to know."""

    image: str
    claim: str
    """Name of a PersistentVolumeClaim that all pods can write."""
    mount: str
    """Where it lies in a pod; the run's folder must be inside."""
    folder: str
    """Where the command is started in a pod."""
    gpus: int
    """Per node; 0 for pods without."""
    cpus: str
    memory: str


def kubernetes_manifest(job: Job, name: str, settings: KubernetesSettings) -> str:
    """The manifest, for `kubectl apply -f`. Raises ValueError for what the cluster would refuse."""
    label = name.lower().replace("_", "-").replace(".", "-")
    for what, value in (("name", label), ("--claim", settings.claim)):
        if not LABEL.fullmatch(value):
            raise ValueError(
                f"{what} {value}: up to 50 small letters, digits and dashes, with a letter or digit at each end"
            )
    for what, value in (("--cpus", settings.cpus), ("--memory", settings.memory)):
        if not QUANTITY.fullmatch(value):
            raise ValueError(f"{what} {value}: write a Kubernetes quantity such as 16 or 128Gi")
    command = job.node_command(f"{label}-0.{label}:{DEFAULT_PORT}", python="python3")
    return render(
        "kubernetes.yaml.j2",
        name=label,
        nodes=job.nodes,
        restarts=job.max_restarts * job.nodes,
        mistake=MISTAKE,
        requeue=REQUEUE,
        grace_seconds=job.stop_seconds + 30,
        command=command,
        image=settings.image,
        claim=settings.claim,
        mount=settings.mount,
        folder=settings.folder,
        gpus=settings.gpus,
        cpus=settings.cpus,
        memory=settings.memory,
    )
