"""A whole run in miniature: recorded episodes, trained tokenizers, tokenised shards, and a config of three stages.

`tiny_run(...)` gives a folder in which `unimodel train CONFIG` works at once; every test gets its own copy.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_pipelines.shards.storage import local_folder
from data_pipelines.sources.recording import Recording, record_dataset
from unimodel.config import RunConfig
from unimodel.config_file import load_config, settings_of
from unimodel.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
ZERO_STAGES = (0, *(pytest.param(zero, marks=pytest.mark.slow) for zero in (1, 2)), 3)
"""Nothing and everything sharded; what lies between takes as long and is left to `make test-all`."""
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
START_SECONDS = 240
"""Longest wait for a process; nothing is measured with it, it only ends a test that hangs."""

CONFIG: dict[str, Any] = {
    "name": "tiny",
    "seed": 11,
    "data": {
        "recording": {
            "train_episodes": 12,
            "validation_episodes": 2,
            "test_episodes": 3,
            "max_steps": 6,
            "image_size": 32,
            "episodes_per_shard": 6,
        }
    },
    "tokenizers": {
        "text": {"vocabulary_size": 320},
        "image": {"patch_pixels": 8, "levels": [4, 4, 3], "width": 8, "steps": 5, "batch_frames": 4},
    },
    "backbone": {
        "num_layers": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 64,
    },
    "checkpoint": {"every_steps": 3},
    "stages": {
        "masked": {
            "number": 1,
            "steps": 7,
            "mixture": [{"sequence": "clip", "objective": "masked"}],
            "objectives": {"masked": {"kind": "masked", "weight": "elbo", "schedule": "linear"}},
        },
        "unified": {
            "number": 2,
            "steps": 7,
            "mixture": [
                {"sequence": "text_to_image", "objective": "image"},
                {"sequence": "image_to_text", "objective": "caption"},
            ],
            "objectives": {
                "image": {"kind": "masked", "attention": "span", "condition_dropout_fraction": 0.1},
                "caption": {"kind": "next_token", "coefficient": 0.5},
            },
        },
        "interactive": {
            "number": 3,
            "steps": 7,
            "carry_optimizer": True,
            "optimizer": {"kind": "muon"},
            "mixture": [
                {"sequence": "interaction", "objective": "frames", "frames": 4, "share": 3.0},
                {"sequence": "image_to_text", "objective": "caption"},
            ],
            "objectives": {
                "frames": {"kind": "diffusion_forcing", "changed_weight": 3.0},
                "caption": {"kind": "next_token"},
            },
        },
        "memory": {
            "number": 4,
            "steps": 7,
            "batch": {"rows": 4, "row_tokens": 384},
            "mixture": [
                {"sequence": "interaction", "objective": "frames", "frames": 5, "share": 3.0},
                {"sequence": "image_to_text", "objective": "caption"},
            ],
            "objectives": {"frames": {"kind": "teacher_forcing"}, "caption": {"kind": "next_token"}},
            "memory": {
                "segment_frames": 2,
                "segment_tokens": 128,
                "dropout_fraction": 0.2,
                "mechanisms": [
                    {"kind": "window", "frames": 1},
                    {"kind": "recurrent", "tokens": 2},
                    {"kind": "fastweight", "tokens": 2, "heads": 2, "head_dim": 8},
                    {"kind": "compressed", "levels": [[2, 2], [2, 4]]},
                    {"kind": "episodic", "capacity_frames": 4, "recalled_frames": 1, "key_dim": 8},
                ],
            },
        },
    },
}
SHARED_BY_STAGES = {
    "batch": {"rows": 4, "row_tokens": 256},
    "optimizer": {"learning_rate": 3e-3, "warmup_steps": 3, "ema_decay": 0.9},
}


@dataclass(frozen=True)
class TinyRun:
    """One run folder and the config file that trains it."""

    config_file: Path
    config: RunConfig

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.config.folder)

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.config.stages.values())

    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run.metrics.read_text().splitlines()]

    def num_lines(self) -> int:
        return self.run.metrics.read_bytes().count(b"\n") if self.run.metrics.exists() else 0


def require_same_end(one: TinyRun, other: TinyRun) -> None:
    """Byte for byte: all metrics, and the weights, averages and moments of the last checkpoint, on equal ranks."""
    from unimodel.training.checkpoint import list_checkpoints

    assert one.run.metrics.read_bytes() == other.run.metrics.read_bytes()
    ends = [list_checkpoints(run.run.checkpoints)[0] for run in (one, other)]
    files, others = ({p.name: p.read_bytes() for p in end.glob("*.safetensors")} for end in ends)
    assert files.keys() == others.keys() and files
    assert [name for name in files if files[name] != others[name]] == []


def tiny_run(folder: Path, *overrides: str, stages: tuple[str, ...] = ("masked", "unified", "interactive")) -> TinyRun:
    """A fresh run in `folder` with tokenizers and tokens in place; `overrides` as after `--set`."""
    prepared = _prepared()
    folder.mkdir(parents=True, exist_ok=True)
    config_file = folder / "config.yaml"
    config_file.write_text(yaml.safe_dump(_values(folder, prepared / "data", stages), sort_keys=False))
    config = load_config(config_file, list(overrides))
    config_file.write_text(yaml.safe_dump(settings_of(config), sort_keys=False))
    for part in ("tokenizers", "tokens"):
        shutil.copytree(prepared / "runs" / "tiny" / part, config.folder / part)
    return TinyRun(config_file, config)


def world_config(folder: Path) -> dict[str, Any]:
    """Settings of a run in `folder` that records its own world there, without any stage yet."""
    return _values(folder, folder / "data", ())


def _values(folder: Path, data: Path, stages: tuple[str, ...]) -> dict[str, Any]:
    values = json.loads(json.dumps(CONFIG))
    values["runs_folder"] = str(folder / "runs")
    values["data"]["folder"] = str(data)
    values["stages"] = {name: {**SHARED_BY_STAGES, **values["stages"][name]} for name in stages}
    return values


@functools.cache
def _prepared() -> Path:
    """Recorded, tokenised and kept for all tests of this process."""
    from unimodel.tokenizers.prepare import train_tokenizers
    from unimodel.tokenizers.tokenise import tokenise_dataset

    folder = Path(tempfile.mkdtemp(prefix="unimodel-tests-"))
    _clean_up_later(folder)
    config = RunConfig.model_validate_json(json.dumps(_values(folder, folder / "data", tuple(CONFIG["stages"]))))
    recording = Recording(seed=config.seed, **settings_of(config.data.recording))
    record_dataset(local_folder(config.data.folder), recording, processes=1)
    train_tokenizers(config, RunFolder(config.folder))
    tokenise_dataset(config, RunFolder(config.folder))
    return folder


def _clean_up_later(folder: Path) -> None:
    import atexit

    atexit.register(shutil.rmtree, folder, ignore_errors=True)


# --- training -------------------------------------------------------------------------------------------------------


def train_here(config: RunConfig) -> None:
    """Trains in this process: the same loop as the command, without 10 seconds of starting Python."""
    from unimodel.training.train import train

    with _signals_restored():
        train(config)


@contextmanager
def _signals_restored() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def environment() -> dict[str, str]:
    """This process's, less what a launcher (or a training in this process) has set."""
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "COLUMNS": "200"}


def start(*arguments: str, ranks: int = 1, stderr: Any = subprocess.PIPE) -> subprocess.Popen[str]:
    """`python -m unimodel ...`, under torchrun when `ranks` is more than one."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [*launcher, "-m", "unimodel", *arguments]
    return subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True)


def command(*arguments: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """Runs `unimodel ...` to its end."""
    process = start(*arguments, ranks=ranks)
    try:
        out, err = process.communicate(timeout=START_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"unimodel {' '.join(arguments)} did not end: {process.communicate()}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_until(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    """Polls until `ready`; fails when the process ends or nothing happens for too long."""
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the process ended too early ({process.returncode}): {process.communicate()}")
        time.sleep(0.002)
