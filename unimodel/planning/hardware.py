"""What a device can do, and what connects it to the others.

Peaks are those of the makers' data sheets, dense. How much of a peak a training step gets is an assumption and stands
here by name; for the device that a plan runs on it is measured instead (`calibrate.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unimodel.observe.devices import peak_tflops

GIB = 2**30

MATMUL_EFFICIENCY = 0.70
"""Of the peak, for the matrix products of a training step: large ones reach 0.75 to 0.8 on H100, small ones less."""
ATTENTION_EFFICIENCY = 0.40
"""Of the peak, for compiled FlexAttention forward and backward together (FlexAttention, arXiv 2412.05496, figure 4)."""
VISIBLE_FRACTION = 0.5
"""Of all pairs of places, those in tiles that a GPU's attention does not skip: causal rows of one document."""
STREAM_EFFICIENCY = 0.80
"""Of the memory's bandwidth, for everything else."""
LINK_EFFICIENCY = 0.75
"""Of a link's bandwidth, for large collectives."""
LAUNCH_SECONDS = 9e-6
"""For Python and torch to start one operation on a GPU: a step of small operations cannot be faster than that."""
NETWORK_BYTES_PER_SECOND = 50e9
"""Of each device to other nodes: 400 Gbit/s."""
IN_NODE_LATENCY_SECONDS = 2e-5
BETWEEN_NODES_LATENCY_SECONDS = 4e-5
"""Of one collective, per doubling of the ranks beyond one node."""
GPU_RUNTIME_BYTES = int(1.7 * GIB)
"""CUDA context, NCCL's buffers and cuBLAS's workspaces."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device does in a second of training, and what each operation costs on top."""

    matmul_flops: float
    attention_flops: float
    stream_bytes: float
    """Read and written by operations that compute little."""
    update_bytes: float
    """The same for the optimizer, which writes in place."""
    launch_seconds: float
    overlaps_launches: bool
    """On a GPU operations start while others run; on CPU each waits for the one before."""


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator, or the CPU that a plan runs on."""

    name: str
    memory_bytes: int
    rates: Mapping[str, Rates]
    """By precision."""
    peak_flops: Mapping[str, float]
    link_bytes_per_second: float
    """To the others of its node, in one direction."""
    network_bytes_per_second: float
    """Its share of the node's network, in one direction."""
    host_bytes_per_second: float
    """To the memory of its host."""
    runtime_bytes: int
    """In use before any tensor exists."""
    is_gpu: bool


def _gpu(
    name: str, reported: str, memory_gib: float, fp32: float, memory_gbs: float, link_gbs: float, host_gbs: float
) -> Device:
    """`reported` is what torch calls it."""
    bf16 = peak_tflops(reported)
    assert bf16 is not None, reported

    def rates(peak: float) -> Rates:
        stream = memory_gbs * 1e9 * STREAM_EFFICIENCY
        return Rates(peak * MATMUL_EFFICIENCY, peak * ATTENTION_EFFICIENCY, stream, stream, LAUNCH_SECONDS, True)

    peaks = {"bf16": bf16 * 1e12, "fp32": fp32 * 1e12}
    return Device(
        name=name,
        memory_bytes=int(memory_gib * GIB),
        rates={precision: rates(peak) for precision, peak in peaks.items()},
        peak_flops=peaks,
        link_bytes_per_second=link_gbs * 1e9,
        network_bytes_per_second=NETWORK_BYTES_PER_SECOND,
        host_bytes_per_second=host_gbs * 1e9,
        runtime_bytes=GPU_RUNTIME_BYTES,
        is_gpu=True,
    )


# Name, torch's name, usable GiB, fp32 TFLOP/s without tensor cores, memory GB/s, link GB/s, host GB/s.
GPUS = {
    device.name: device
    for device in (
        _gpu("a100-40gb", "A100", 39.4, 19.5, 1555, 300, 25),
        _gpu("a100", "A100", 79.1, 19.5, 2039, 300, 25),
        _gpu("l40s", "L40S", 44.4, 91.6, 864, 25, 25),
        _gpu("h100", "H100", 79.1, 66.9, 3350, 450, 50),
        _gpu("h200", "H200", 139.8, 66.9, 4800, 450, 50),
        _gpu("b200", "B200", 179.0, 75, 8000, 900, 50),
        _gpu("rtx4090", "RTX 4090", 23.5, 82.6, 1008, 25, 25),
    )
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """So many of one device, so many to a node."""

    device: Device
    num_devices: int
    per_node: int

    @property
    def num_nodes(self) -> int:
        return -(-self.num_devices // self.per_node)

    def bandwidth(self, ranks: int) -> float:
        """Bytes per second and device of a ring over `ranks` neighbours: its slowest link decides."""
        device = self.device
        slowest = device.link_bytes_per_second if ranks <= self.per_node else device.network_bytes_per_second
        return slowest * LINK_EFFICIENCY

    def latency(self, ranks: int) -> float:
        """Seconds before a collective of `ranks` moves anything."""
        if ranks <= self.per_node:
            return IN_NODE_LATENCY_SECONDS
        doublings = (self.num_nodes - 1).bit_length()
        return IN_NODE_LATENCY_SECONDS + doublings * BETWEEN_NODES_LATENCY_SECONDS


def named_device(name: str) -> Device:
    """Raises ValueError for a device that is not in the table."""
    if name not in GPUS:
        raise ValueError(f"no figures for '{name}': known are {', '.join(sorted(GPUS))}, and cpu for this machine")
    return GPUS[name]
