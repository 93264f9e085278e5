"""The rates of the device that a plan runs on, measured on two layers of the model itself."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from unimodel.config import BackboneConfig
from unimodel.planning.hardware import Device, Rates
from unimodel.planning.trace import SHALLOW, MicroBatch, kind_of, planned_decoder, planned_loss, trace_micro_batch
from unimodel.planning.update import UPDATE_BYTES
from unimodel.vocabulary import Vocabulary

ROUNDS = 3
UPDATED_ELEMENTS = 1 << 23
CPU_RUNTIME_BYTES = 640 << 20
"""Python, torch, DeepSpeed, transformers (500 MiB in a process that trains next to nothing), and what their libraries
keep once matrices are large."""
LOOPBACK_BYTES_PER_SECOND = 1.0e9
"""gloo between processes of one machine."""


def this_cpu(backbone: BackboneConfig, vocabulary: Vocabulary, precision: str, batch: MicroBatch) -> Device:
    """This machine's CPU as a device, with as many threads as torch would take."""
    rates = measure_rates(backbone, vocabulary, precision, batch)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(
        "cpu",
        memory,
        {precision: rates},
        {},
        LOOPBACK_BYTES_PER_SECOND,
        LOOPBACK_BYTES_PER_SECOND,
        rates.update_bytes,
        CPU_RUNTIME_BYTES,
        is_gpu=False,
    )


def measure_rates(backbone: BackboneConfig, vocabulary: Vocabulary, precision: str, batch: MicroBatch) -> Rates:
    """Runs forward and backward of the model's width and a few layers, and asks every operation for its time."""
    slice_ = backbone.model_copy(update={"num_layers": min(SHALLOW, backbone.num_layers)})
    decoder = planned_decoder(slice_, vocabulary, precision, checkpointing=batch.checkpointing)
    work = trace_micro_batch(slice_, vocabulary, precision, batch).work
    flops: defaultdict[str, float] = defaultdict(float)
    for operation, times in work.items():
        flops[kind_of(operation.name)] += times * (operation.flops or operation.moved_bytes)

    def run() -> float:
        began = time.perf_counter()
        planned_loss(decoder, vocabulary, batch).backward()
        seconds = time.perf_counter() - began
        decoder.zero_grad()
        return seconds

    run()
    timed = []
    for _ in range(ROUNDS):
        with _Timed() as clock:
            run()
        timed.append(clock.seconds)
    seconds = {kind: statistics.median(one[kind] for one in timed) for kind in timed[0]}
    whole = statistics.median(run() for _ in range(ROUNDS))
    launch = max(0.0, whole - sum(seconds.values())) / sum(work.values())
    return Rates(
        flops["matmul"] / seconds["matmul"],
        flops["attention"] / seconds["attention"],
        flops["stream"] / seconds["stream"],
        _update_rate(),
        launch,
        overlaps_launches=False,
    )


def _update_rate() -> float:
    """Bytes per second of AdamW and the moving average."""
    parameter = torch.nn.Parameter(torch.zeros(UPDATED_ELEMENTS))
    parameter.grad = torch.ones(UPDATED_ELEMENTS)
    average = torch.zeros(UPDATED_ELEMENTS)
    optimizer = torch.optim.AdamW([parameter])
    seconds = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        optimizer.step()
        average.lerp_(parameter.detach(), 0.01)
        seconds.append(time.perf_counter() - began)
    return UPDATED_ELEMENTS * UPDATE_BYTES / statistics.median(seconds[1:])


class _Timed(TorchDispatchMode):
    """Seconds inside operations, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        began = time.perf_counter()
        output = func(*args, **(kwargs or {}))
        self.seconds[kind_of(func._overloadpacket.__name__)] += time.perf_counter() - began
        return output
