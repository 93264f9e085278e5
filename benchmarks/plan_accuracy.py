"""Peak memory and step time of `unimodel plan` beside those of runs, at several sizes, on this CPU or its GPU.

Every run is `unimodel train` in a process of its own on real recorded episodes; its peak memory is the kernel's
(`ru_maxrss`), on a GPU what nvidia-smi sees in use (five times a second); its step time the median of timing.jsonl
after the first steps.

Run: python benchmarks/plan_accuracy.py [FOLDER]   (FOLDER keeps the recorded data between runs)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from unimodel.planning.hardware import GPUS

SIZES = {
    "10M": {"num_layers": 6, "hidden_size": 320, "num_heads": 5, "num_key_value_heads": 5, "intermediate_size": 960},
    "43M": {"num_layers": 10, "hidden_size": 576, "num_heads": 9, "num_key_value_heads": 9, "intermediate_size": 1536},
    "151M": {
        "num_layers": 12,
        "hidden_size": 960,
        "num_heads": 15,
        "num_key_value_heads": 15,
        "intermediate_size": 2816,
    },
}
GPU_SIZES = {
    "0.3B": {
        "num_layers": 22,
        "hidden_size": 1024,
        "num_heads": 16,
        "num_key_value_heads": 16,
        "intermediate_size": 2816,
    },
    "1.1B": {
        "num_layers": 28,
        "hidden_size": 1792,
        "num_heads": 28,
        "num_key_value_heads": 28,
        "intermediate_size": 4736,
    },
}
GPU_ROWS, CPU_ROWS = 64, 4
CASES = {
    "zero 0": ["engine.zero=0"],
    "zero 2, checkpointing": ["engine.zero=2", "engine.activation_checkpointing=true"],
}
STEPS, WARM_STEPS = 10, 3
GPU = next((name for name in GPUS if torch.cuda.is_available() and name.upper() in torch.cuda.get_device_name()), None)
"""The plan's name for this machine's."""
PRECISION = ["engine.precision=bf16"] if GPU else []
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(code)
"""
"""Ends with the most memory that the command had."""

CONFIG = """
name: plan
runs_folder: {folder}/runs
data:
  folder: {folder}/data
  recording: {{train_episodes: 200, validation_episodes: 4, test_episodes: 4, max_steps: 16, episodes_per_shard: 100}}
tokenizers:
  image: {{steps: 50, width: 32}}
backbone: {{head_dim: 64}}
checkpoint: {{every_steps: 5}}
stages:
  masked:
    number: 1
    steps: {steps}
    batch: {{rows: {rows}, row_tokens: 968}}
    mixture: [{{sequence: clip, objective: masked, frames: 6}}]
    objectives: {{masked: {{kind: masked}}}}
"""


def unimodel(*arguments: str) -> str:
    command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "unimodel", *arguments]
    done = subprocess.run(command, text=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def gpu_bytes() -> int:
    """In use on the first GPU, by anybody."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(command, text=True, capture_output=True, check=True).stdout) << 20


@contextmanager
def peak_gpu_bytes() -> Iterator[list[int]]:
    """What comes to be in use meanwhile, at its most: the one number of the list, afterwards."""
    before, ended, peak = gpu_bytes(), threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(0.2):
            peak[0] = max(peak[0], gpu_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def measure(config: Path, overrides: list[str], run: Path) -> tuple[float, float]:
    """(peak bytes, seconds of a step) of a run of its own."""
    with peak_gpu_bytes() if GPU else nullcontext([0]) as peak:
        on_host = int(unimodel("train", str(config), *overrides).splitlines()[-1])
    steps = [json.loads(line)["seconds"] for line in (run / "timing.jsonl").read_text().splitlines()]
    return peak[0] if GPU else on_host, statistics.median(steps[WARM_STEPS:])


def planned(config: Path, overrides: list[str]) -> tuple[float, float]:
    """The same two of the plan for this machine, as configured."""
    device = GPU or "cpu"
    lines = unimodel("plan", str(config), "--gpus", "1", "--gpu", device, "--json", *overrides).splitlines()
    stage = json.loads("\n".join(lines[:-1]))["as_configured"]["stages"][0]
    return stage["memory"]["total"], stage["time"]["total"]


def main() -> None:
    keep = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    keep.mkdir(parents=True, exist_ok=True)
    config = keep / "plan.yaml"
    config.write_text(CONFIG.format(folder=keep, steps=STEPS, rows=GPU_ROWS if GPU else CPU_ROWS))
    unimodel("data", "record", str(config))
    unimodel("tokenizer", "train", str(config))
    unimodel("data", "tokenize", str(config))
    base = keep / "runs" / "plan"
    print(f"{'':36} memory planned / measured     step planned / measured")
    for size, values in (GPU_SIZES if GPU else SIZES).items():
        for case, engine in CASES.items():
            name = f"{size}-{case.replace(', ', '-').replace(' ', '')}"
            run = keep / "runs" / name
            subprocess.run(["rm", "-rf", run], check=True)
            run.mkdir()
            for part in ("tokenizers", "tokens"):
                (run / part).symlink_to(base / part)
            sets = [f"name={name}", *engine, *PRECISION, *(f"backbone.{key}={value}" for key, value in values.items())]
            overrides = [part for one in sets for part in ("--set", one)]
            memory, seconds = planned(config, overrides)
            peak, step = measure(config, overrides, run)
            print(
                f"{size:6} {case:28} {memory / 2**30:6.2f} / {peak / 2**30:5.2f} GiB {memory / peak - 1:+6.1%}  "
                f"{seconds:7.3f} / {step:6.3f} s {seconds / step - 1:+6.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
