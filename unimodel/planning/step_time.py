"""Seconds of one optimizer step: the work at the device's rates, what ranks send each other, and the update."""

from __future__ import annotations

from dataclasses import dataclass

from unimodel.planning.hardware import VISIBLE_FRACTION, Cluster, Device, Rates
from unimodel.planning.memory import LIVE_ELEMENTS, Layout
from unimodel.planning.trace import Trace, kind_of
from unimodel.planning.update import UPDATE_BYTES, Parameters

OVERLAPPED_FRACTION = 0.8
"""Of ZeRO 3's communication that can hide behind computation: gathers run ahead, the first and the last cannot."""
HOST_UPDATE_BYTES_PER_SECOND = 30e9
"""Of the host's memory, for each device of a node: its processors update what is offloaded."""
FORWARD_FRACTION = 1 / 3
"""Of forward and backward."""
TENSOR_SECONDS = 4e-5
"""DeepSpeed's hooks for one parameter in one backward."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds."""

    compute: float
    """Forward and backward of all micro-batches."""
    update: float
    communication: float
    """All of it, hidden or not."""
    exposed: float
    """The part that computation waits for."""
    launch_bound: bool
    """Starting operations takes longer than the device needs for them."""

    @property
    def total(self) -> float:
        return self.compute + self.update + self.exposed


def step_time(
    layout: Layout,
    parameters: Parameters,
    trace: Trace,
    cluster: Cluster,
    activation_bytes: int,
    own_passes: float = 0.0,
) -> StepTime:
    """`activation_bytes` [one micro-batch] are those of the hidden state between two layers; `own_passes` more forward
    passes, on average, make frames to train on."""
    rates = cluster.device.rates[layout.precision]
    micro, launch_bound = _micro_batch(trace, rates, layout.sequence_parallel)
    micro *= 1 + own_passes * FORWARD_FRACTION
    compute = layout.accumulation * (micro + parameters.num_tensors * TENSOR_SECONDS * (not launch_bound))
    update = _update(layout, parameters, cluster.device)
    gradients, sequence = _communication(layout, parameters, cluster, activation_bytes)
    device = cluster.device
    if layout.parameters_on_host and device.is_gpu:  # each rank reads its share of them for every gather
        reads = 2 * layout.accumulation * parameters.total * layout.weight_bytes / layout.ranks
        gradients += reads / device.host_bytes_per_second
    if layout.activations_on_host and device.is_gpu:
        layers = max(1, parameters.total // max(1, parameters.layer))
        crossing = 2 * layout.accumulation * layers * activation_bytes / layout.sequence_parallel
        gradients += crossing / device.host_bytes_per_second
    hidden = min(gradients, OVERLAPPED_FRACTION * compute) if layout.zero == 3 else 0.0
    return StepTime(compute, update, gradients + sequence, gradients + sequence - hidden, launch_bound)


def _micro_batch(trace: Trace, rates: Rates, parts: int) -> tuple[float, bool]:
    """Seconds, and whether starting operations is what takes them. Each of `parts` ranks has its part of the length."""
    seconds, operations = 0.0, 0.0
    for operation, times in trace.work.items():
        match kind_of(operation.name):
            case "matmul":
                busy = operation.flops / rates.matmul_flops
                if rates.overlaps_launches:  # a thin product is bound by reading its operands
                    busy = max(busy, operation.moved_bytes / rates.stream_bytes)
            case "attention":
                busy = operation.flops / rates.attention_flops * (VISIBLE_FRACTION if rates.overlaps_launches else 1)
            case _:
                busy = operation.moved_bytes / rates.stream_bytes
        seconds, operations = seconds + busy * times / parts, operations + times
    starting = operations * rates.launch_seconds
    if rates.overlaps_launches:
        return max(seconds, starting), starting > seconds
    return seconds + starting, False


def _update(layout: Layout, parameters: Parameters, device: Device) -> float:
    rates = device.rates[layout.precision]
    shard = parameters.trained / layout.shards
    moved = shard * UPDATE_BYTES
    copied = 0.0  # into new memory: buckets, flat gradients in fp32
    if layout.zero or layout.precision == "bf16":
        copied = shard * 12 + parameters.trained * layout.weight_bytes * 3
    turning = parameters.muon_flops / rates.matmul_flops / layout.shards
    if layout.optimizer_on_host and device.is_gpu:
        crossing = 2 * shard * layout.weight_bytes / device.host_bytes_per_second
        return shard * UPDATE_BYTES / HOST_UPDATE_BYTES_PER_SECOND + crossing + turning
    return moved / rates.update_bytes + copied / rates.stream_bytes + turning


def _communication(
    layout: Layout, parameters: Parameters, cluster: Cluster, activation_bytes: int
) -> tuple[float, float]:
    """Seconds for weights and gradients, and for turning sequences into heads and back."""
    ranks, size = layout.ranks, layout.weight_bytes
    if ranks == 1:
        return 0.0, 0.0
    ring = (ranks - 1) / ranks / cluster.bandwidth(ranks)
    latency = cluster.latency(ranks)
    grads, weights = parameters.trained * size * ring, parameters.total * size * ring
    match layout.zero:
        case 0:
            seconds, calls = 2 * grads, 1
        case 1:
            seconds, calls = grads + parameters.trained * size * ring, 2
        case 2:
            seconds, calls = (layout.accumulation + 1) * grads, layout.accumulation + 1
        case _:
            gathers = 1 if parameters.total < LIVE_ELEMENTS else 2
            seconds = layout.accumulation * (gathers * weights + grads)
            calls = layout.accumulation * (gathers + 1) * max(1, parameters.total // max(1, parameters.layer))
    parts = layout.sequence_parallel
    turns = 8 * activation_bytes / parts * (parts - 1) / parts / cluster.bandwidth(parts) if parts > 1 else 0.0
    layers = max(1, parameters.total // max(1, parameters.layer))
    return seconds + calls * latency, layout.accumulation * layers * turns
