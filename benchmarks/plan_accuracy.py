"""Peak memory and step time of `unimodel plan` beside those of runs, at three sizes.

Every run is `unimodel train` in a process of its own on real recorded episodes; its peak memory is the kernel's
(`ru_maxrss`), its step time the median of timing.jsonl after the first steps.

Run: python benchmarks/plan_accuracy.py [FOLDER]   (FOLDER keeps the recorded data between runs)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

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
CASES = {
    "zero 0": ["engine.zero=0"],
    "zero 2, checkpointing": ["engine.zero=2", "engine.activation_checkpointing=true"],
}
STEPS, WARM_STEPS = 10, 3
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
    batch: {{rows: 4, row_tokens: 968}}
    mixture: [{{sequence: clip, objective: masked, frames: 6}}]
    objectives: {{masked: {{kind: masked}}}}
"""


def unimodel(*arguments: str) -> str:
    command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "unimodel", *arguments]
    done = subprocess.run(command, text=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def measure(config: Path, overrides: list[str], run: Path) -> tuple[float, float]:
    """(peak bytes, seconds of a step) of a run of its own."""
    peak = int(unimodel("train", str(config), *overrides).splitlines()[-1])
    steps = [json.loads(line)["seconds"] for line in (run / "timing.jsonl").read_text().splitlines()]
    return peak, statistics.median(steps[WARM_STEPS:])


def planned(config: Path, overrides: list[str]) -> tuple[float, float]:
    """The same two of the plan for this machine, as configured."""
    lines = unimodel("plan", str(config), "--gpus", "1", "--gpu", "cpu", "--json", *overrides).splitlines()
    stage = json.loads("\n".join(lines[:-1]))["as_configured"]["stages"][0]
    return stage["memory"]["total"], stage["time"]["total"]


def main() -> None:
    keep = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    keep.mkdir(parents=True, exist_ok=True)
    config = keep / "plan.yaml"
    config.write_text(CONFIG.format(folder=keep, steps=STEPS))
    unimodel("data", "record", str(config))
    unimodel("tokenizer", "train", str(config))
    unimodel("data", "tokenize", str(config))
    base = keep / "runs" / "plan"
    print(f"{'':36} memory planned / measured     step planned / measured")
    for size, values in SIZES.items():
        for case, engine in CASES.items():
            name = f"{size}-{case.replace(', ', '-').replace(' ', '')}"
            run = keep / "runs" / name
            subprocess.run(["rm", "-rf", run], check=True)
            run.mkdir()
            for part in ("tokenizers", "tokens"):
                (run / part).symlink_to(base / part)
            sets = [f"name={name}", *engine, *(f"backbone.{key}={value}" for key, value in values.items())]
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
