"""What `unimodel status` tells of a run whose files are known.

Run: pytest tests/training/test_status.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tiny_run import tiny_run

from unimodel.run_folder import RunFolder
from unimodel.training.status import run_status

BEGAN = 1_000_000.0


def write_lines(path: Path, lines: list[dict[str, Any]], modified: float) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.utime(path, (modified, modified))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Ten steps of 2 s, half a second of each waiting for data; 3 s of saving; 100 s in all, from two starts."""
    run = tiny_run(tmp_path, "stages.masked.steps=40", stages=("masked",))
    run.run.store_config(run.config)
    steps = range(1, 11)
    metrics = [{"step": n, "stage": "masked", "loss": 1.0 / n, "learning_rate": 1e-3} for n in steps]
    timing = [{"step": n, "seconds": 2.0, "loading_seconds": 0.5, "tokens_per_second": 500.0} for n in steps]
    timing[5]["saving_seconds"] = 3.0
    write_lines(run.run.metrics, metrics, BEGAN + 100)
    write_lines(run.run.timing, timing, BEGAN + 100)
    write_lines(
        run.run.starts, [{"time": BEGAN, "step": 0, "ranks": 2}, {"time": BEGAN + 50, "step": 4, "ranks": 3}], 0
    )
    return run.run


def test_every_figure_follows_from_the_files(run: RunFolder) -> None:
    told = dict(run_status(run.path, now=BEGAN + 1000))
    assert told["progress"] == "step 10 of 40, stage masked, about 1:00 min left at this stage's speed"
    assert told["last step"] == "loss 0.1000, learning rate 1.00e-03, 15:00 min ago"
    assert told["speed"] == "2.000 s a step, 500 tokens/s (median of 10 steps)"
    shares = "15.0% steps, 5.0% waiting for data, 3.0% saving, 77.0% starting, lost and idle"
    assert told["time"] == f"1:40 min: {shares}", "time after the run was left does not count"
    assert told["starts"] == "2, the last on 3 ranks from step 4"
    assert not {"checkpoints", "skipped steps", "unreadable samples", "hung"} & told.keys()


def test_what_went_wrong_is_told(run: RunFolder) -> None:
    write_lines(run.skipped, [{"step": 3, "reason": "loss nan", "samples": []}], BEGAN)
    run.stacks.mkdir()
    (run.stacks / "rank-0.txt").write_text("Current thread")
    write_lines(run.metrics, [{"step": 3, "stage": "masked", "loss": None, "learning_rate": 1e-3}], BEGAN + 100)
    told = dict(run_status(run.path, now=BEGAN + 130))
    assert told["skipped steps"] == f"1, listed in {run.skipped}" and str(run.stacks) in told["hung"]
    assert told["last step"].startswith("loss skipped")
    assert told["time"].startswith("2:10 min"), "a run that goes on is measured up to now"


def test_speed_slowest_rank_and_gradients_are_told(run: RunFolder) -> None:
    steps = range(1, 21)
    speed = {"tflops_per_second_per_device": 123.4, "mfu": 0.125}
    timing = {"seconds": 2.0, "loading_seconds": 0.5, "tokens_per_second": 500.0}
    write_lines(run.timing, [{"step": n} | timing | speed for n in steps], BEGAN + 100)
    slowest = {"rank": 2, "host": "node7", "seconds": 0.6}
    ranks = {"loading_seconds": [0.1, 0.1, 0.1], "forward_seconds": [0.2, 0.2, 0.5], "median_seconds": 0.3}
    write_lines(run.ranks, [{"step": 20} | ranks | {"slowest": slowest}], BEGAN)
    metrics = [{"step": n, "stage": "masked", "loss": 1.0, "learning_rate": 1e-3} for n in steps]
    for line in metrics:
        line |= {"gradient_norm/image": 0.5, "gradient_norm/text": 2.0}
    write_lines(run.metrics, metrics, BEGAN + 100)
    told = dict(run_status(run.path, now=BEGAN + 1000))
    assert told["speed"].endswith("500 tokens/s, 123 TFLOP/s a device, MFU 12.5% (median of 20 steps)")
    parts = "data 0.100 s, forward 0.500 s"
    assert told["slowest rank"] == f"2 on node7: 2.00 times the median by itself ({parts}), up to step 20"
    assert "gradients" not in told, "nothing is unusual"
    metrics[6]["gradient_norm/image"] = 15.0
    metrics[8]["gradient_norm/text"] = None
    metrics[9] |= {"gradient_norm/image": None, "gradient_norm/text": None, "skipped": True}
    write_lines(run.metrics, metrics, BEGAN + 100)
    told = dict(run_status(run.path, now=BEGAN + 1000))
    assert told["gradients"] == "image 30 times its median at step 7, text not finite at step 9"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        list(run_status(tmp_path))
