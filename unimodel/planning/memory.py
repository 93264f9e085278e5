"""Memory of one device by kind, for every ZeRO stage.

What is held and when follows DeepSpeed 0.19's own code: its buckets, the flat gradient of a group that is copied to
fp32 for the update, ZeRO 3's 10^9 gathered parameters. `benchmarks/plan_accuracy.py` compares it with runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unimodel.config_engine import BUCKET_ELEMENTS
from unimodel.planning.hardware import Device
from unimodel.planning.trace import Trace
from unimodel.planning.update import Parameters
from unimodel.training.muon import ELEMENTS_AT_ONCE

LIVE_ELEMENTS = 1_000_000_000
"""ZeRO 3 keeps so many gathered parameters before it lets the first go."""
SUB_GROUP_ELEMENTS = 1_000_000_000
"""ZeRO 3 updates so many at a time."""
PREFETCH_ELEMENTS = 50_000_000
GPU_MARGIN_FRACTION = 0.03
"""Of the tensors, for what torch's allocator cannot use."""
CPU_MARGIN_FRACTION = 0.2
"""The same of glibc's. Its heap also keeps what small tensors of backward have freed, so that the update comes on top,
and gradients come on top of activations: fitted to the six runs of benchmarks/plan_accuracy.py. With
MALLOC_MMAP_THRESHOLD_=1048576 next to nothing is lost, and steps take a quarter more processor time."""
FP32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """How a stage is laid out over devices."""

    zero: int
    precision: str
    micro_rows: int
    accumulation: int
    checkpointing: bool
    sequence_parallel: int
    ranks: int
    averaging: bool
    """A moving average of the weights is kept."""
    hierarchical_ranks: int = 1
    """Ranks that hold all weights among them a second time, under ZeRO 3."""
    optimizer_on_host: bool = False
    parameters_on_host: bool = False
    activations_on_host: bool = False

    @property
    def data_ranks(self) -> int:
        """Groups of ranks with rows of their own."""
        return self.ranks // self.sequence_parallel

    @property
    def weight_bytes(self) -> int:
        return 2 if self.precision == "bf16" else 4

    @property
    def shards(self) -> int:
        """Over how many ranks optimizer state is cut."""
        return self.ranks if self.zero else 1


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device at the peak, and on its host."""

    parameters: int
    gradients: int
    optimizer: int
    """fp32 weights, moments, and the moving average."""
    activations: int
    buffers: int
    """Buckets, gathered parameters and what an update needs in passing."""
    checkpoint_copy: int
    """On CPU, where the device's memory is the host's."""
    runtime: int
    margin: int
    peak_in_update: bool
    host: int
    """For each rank of the host: the weights as they are read, the copy of its share for a checkpoint, and what is
    offloaded."""

    @property
    def total(self) -> int:
        tensors = self.parameters + self.gradients + self.optimizer + self.activations + self.buffers
        return tensors + self.checkpoint_copy + self.runtime + self.margin


def checkpoint_bytes(parameters: Parameters, *, averaging: bool) -> int:
    """Of one checkpoint, over all ranks: fp32 weights, moments and average by name."""
    kept = parameters.total + parameters.moments + (parameters.trained if averaging else 0)
    return kept * FP32_BYTES


def memory_of(layout: Layout, parameters: Parameters, trace: Trace, device: Device) -> Memory:
    """The larger of two peaks: amid backward, and amid the update."""
    size, cut = layout.weight_bytes, layout.ranks if layout.zero == 3 else 1
    weights = parameters.total * size // cut
    high = parameters.trained * FP32_BYTES // layout.shards
    masters = high if layout.zero or layout.precision == "bf16" else 0
    moments = parameters.moments * FP32_BYTES // layout.shards
    average = high if layout.averaging else 0
    copied = checkpoint_bytes(parameters, averaging=layout.averaging) // layout.ranks
    on_host = 0
    if layout.optimizer_on_host:
        on_host += masters + moments + average
        masters = moments = average = 0
    if layout.parameters_on_host:
        on_host, weights = on_host + weights, 0
    if layout.hierarchical_ranks > 1:
        weights += parameters.total * size // layout.hierarchical_ranks
    held = Memory(
        parameters=weights,
        gradients=0,
        optimizer=masters + moments + average,
        activations=0,
        buffers=0,
        checkpoint_copy=0 if device.is_gpu else copied,
        runtime=device.runtime_bytes,
        margin=0,
        peak_in_update=False,
        host=parameters.total * FP32_BYTES + copied + on_host if device.is_gpu else 0,
    )
    backward = _in_backward(held, layout, parameters, trace, device)
    update = _in_update(held, layout, parameters, device)
    if device.is_gpu:
        fraction = GPU_MARGIN_FRACTION
    else:
        fraction = CPU_MARGIN_FRACTION
        if not backward.gradients:
            backward = replace(backward, gradients=parameters.trained * size)
        update = replace(update, activations=trace.small_bytes)
    peak = max(backward, update, key=lambda memory: memory.total)
    return replace(peak, margin=int((peak.total - peak.runtime) * fraction))


def _in_backward(held: Memory, layout: Layout, parameters: Parameters, trace: Trace, device: Device) -> Memory:
    size = layout.weight_bytes
    bucket = min(BUCKET_ELEMENTS, parameters.trained) * size
    gathered = min(parameters.total, LIVE_ELEMENTS + PREFETCH_ELEMENTS) * size
    repeats = layout.accumulation > 1
    match layout.zero:
        case 0 | 1:
            gradients, buffers = parameters.trained * size, bucket
        case 2:
            part = FP32_BYTES if repeats else size
            gradients, buffers = parameters.trained * part // layout.shards, bucket + parameters.layer * size
        case _:
            gradients = parameters.trained * size // layout.shards
            buffers = bucket + (gathered if layout.ranks > 1 else 0)
    if layout.zero in (0, 1) and not repeats:
        # Gradients come as activations go: at the peak of one there is little of the other.
        late = gradients + buffers
        early = trace.peak_bytes
        if late > early:
            return replace(held, gradients=gradients, buffers=buffers, activations=0)
        reserved = buffers if layout.zero and device.is_gpu else 0
        return replace(held, gradients=0, buffers=reserved, activations=trace.peak_bytes)
    if layout.zero == 0:
        buffers = 0 if trace.peak_bytes > buffers else buffers
    return replace(held, gradients=gradients, buffers=buffers, activations=trace.peak_bytes)


def _in_update(held: Memory, layout: Layout, parameters: Parameters, device: Device) -> Memory:
    size, cut = layout.weight_bytes, layout.shards
    # On CPU AdamW makes two tensors of the size of one that it updates; on a GPU one of the size of its whole group.
    # Muon keeps a blend of gradient and momentum for its group, and the matrices that it turns at once.
    turned = 5 * min(parameters.orthogonal, ELEMENTS_AT_ONCE)
    if layout.zero == 0:
        gradients = parameters.trained * (size if layout.precision == "fp32" else size + FP32_BYTES)
        adam = parameters.largest_group if device.is_gpu else 2 * parameters.largest_tensor
        buffers = FP32_BYTES * max(adam, parameters.orthogonal + turned if turned else 0)
        return replace(held, gradients=gradients, buffers=buffers, peak_in_update=True)
    most = SUB_GROUP_ELEMENTS if layout.zero == 3 else parameters.total
    adam = min(parameters.largest_group // cut, most) * (2 if device.is_gpu else 3)
    temporaries = FP32_BYTES * max(adam, 2 * min(parameters.orthogonal // cut, most) + turned)
    if layout.optimizer_on_host:
        temporaries = 0
    kept = 0
    if layout.zero == 3:  # its bucket is never given back
        kept = min(BUCKET_ELEMENTS, parameters.trained) * size
    part = FP32_BYTES if layout.zero == 2 and layout.accumulation > 1 else size
    return replace(held, gradients=parameters.trained * part // cut, buffers=temporaries + kept, peak_in_update=True)
