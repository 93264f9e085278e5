"""How long training stands still for a checkpoint of 200 million parameters, beside peers on the same state.

Ours: the copy to host memory, which is all that the loop waits for, and a save that is waited for to its end. Peers:
torch's distributed checkpoint, asynchronous and not, and DeepSpeed's own. All write weights, their moving average and
Adam's two moments in fp32 (DeepSpeed: without the average) to the same disk; medians of several, after one that is not
counted. "beside" is how much slower the loop's own arithmetic is while a checkpoint is written in the background.

Run: python benchmarks/checkpoint_stall.py
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from data_pipelines.stream.plan import StreamState
from unimodel.backbone.model import Backbone, build_decoder
from unimodel.config import BackboneConfig, CheckpointConfig, EngineConfig
from unimodel.config_file import load_config
from unimodel.training.checkpoint import TrainPosition
from unimodel.training.checkpoint_writer import CheckpointWriter
from unimodel.training.engine import build_engine, start_process_group
from unimodel.training.named_state import NamedState
from unimodel.vocabulary import Vocabulary

REPEATS = 5
SIZES = BackboneConfig(
    hidden_size=1024, num_layers=14, num_heads=16, num_key_value_heads=16, head_dim=64, intermediate_size=2816
)
VOCABULARY = Vocabulary(text_size=16_000, image_size=4_096, action_size=64, reward_size=63)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    logging.disable(logging.WARNING)
    stage = load_config(Path(__file__).parents[1] / "configs" / "demo.yaml").ordered_stages[0][1]
    stage = stage.model_copy(update={"optimizer": stage.optimizer.model_copy(update={"kind": "adamw"})})
    settings = EngineConfig(zero=1)
    device = start_process_group(settings)
    engine = build_engine(Backbone(build_decoder(SIZES, VOCABULARY, 0)), settings, stage, device)
    state = NamedState(engine, {})
    state.initialise(1, with_average=True)
    parameters = sum(p.numel() for p in engine.module.parameters())
    before = resident_bytes()
    held = state.held()
    tensors = {one.key: one.values for one in held}
    num_bytes = sum(value.numel() * value.element_size() for value in tensors.values())
    print(f"{parameters / 1e6:.0f} million parameters, {num_bytes / 1e9:.2f} GB of state")
    print(f"memory for the copy: {(resident_bytes() - before) / 1e9:.2f} GB")
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        _ours(Path(folder), state)
        _peers(Path(folder), tensors, engine)
    print(f"peak resident {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


def _ours(folder: Path, state: NamedState) -> None:
    writer = CheckpointWriter(folder / "ours", CheckpointConfig(keep_last=1), {}, print)
    square = torch.randn(768, 768)

    def arithmetic() -> None:
        for _ in range(40):
            square @ square

    stalls, whole, alone, beside = [], [], [], []
    for step in range(REPEATS + 1):
        position = TrainPosition(step, "stage", step, False, step, StreamState())
        alone.append(seconds(arithmetic))
        began = time.perf_counter()
        writer.start(position, state.held())
        stalls.append(time.perf_counter() - began)
        beside.append(seconds(arithmetic))
        assert writer.finish()
        whole.append(time.perf_counter() - began)
    writer.close()
    shutil.rmtree(folder / "ours")
    stall, save = statistics.median(stalls[1:]), statistics.median(whole[1:])
    print(f"ours: stall {stall:.2f} s, whole save {save:.2f} s, stall / save {stall / save:.1%}")
    print(f"beside: {statistics.median(beside[1:]) / statistics.median(alone[1:]):.2f} of the arithmetic's own time")


def _peers(folder: Path, tensors: dict[str, torch.Tensor], engine: object) -> None:
    def clean(name: str) -> str:
        shutil.rmtree(folder / name, ignore_errors=True)
        return str(folder / name)

    synchronous = [seconds(lambda: dcp.save(tensors, checkpoint_id=clean("dcp"))) for _ in range(REPEATS + 1)]
    stalls, whole = [], []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        future = dcp.async_save(tensors, checkpoint_id=clean("dcp"))
        stalls.append(time.perf_counter() - began)
        assert future is not None
        future.result()
        whole.append(time.perf_counter() - began)
    shutil.rmtree(folder / "dcp")
    ours = [
        seconds(lambda: engine.save_checkpoint(clean("deepspeed")))  # pyright: ignore[reportAttributeAccessIssue]
        for _ in range(REPEATS + 1)
    ]
    for name, times in (
        ("torch dcp.save", synchronous),
        ("torch dcp.async_save, stall", stalls),
        ("torch dcp.async_save, whole", whole),
        ("deepspeed save_checkpoint", ours),
    ):
        print(f"{name}: {statistics.median(times[1:]):.2f} s")


if __name__ == "__main__":
    main()
