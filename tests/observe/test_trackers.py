"""Curves in TensorBoard and Weights & Biases: each step once, also where it was computed twice, and no address.

Run: pytest tests/observe/test_trackers.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import tiny_run, train_here
from wandb.proto import wandb_internal_pb2
from wandb.sdk.internal.datastore import DataStore

from data_pipelines.extras import MissingExtraError
from unimodel.observe.trackers import Trackers

SETTINGS = {"seed": 1, "engine": {"zero": 0}}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()  # it reads the environment once per process


def tensorboard_curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """What TensorBoard shows of a run folder."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def wandb_records(folder: Path) -> Iterator[Any]:
    """All records of all offline runs, in their order, after W&B's own process, which writes them, has ended."""
    wandb.teardown()
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        store = DataStore()
        store.open_for_scan(str(file))
        while (data := store.scan_data()) is not None:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            yield record


def wandb_curve(folder: Path, name: str) -> list[tuple[int, float]]:
    curve = []
    for record in wandb_records(folder):
        items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        if name in items:
            curve.append((record.history.step.num, float(items[name])))
    return curve


def log(trackers: Trackers, steps: range, factor: float) -> None:
    for step in steps:
        trackers.log(step, {"step": step, "stage": "masked", "loss": factor * step, "gradient_norm": None})


def test_steps_that_are_computed_again_are_shown_once(tmp_path: Path) -> None:
    """Killed after step 6 with a checkpoint of step 4; later back from step 8 to step 6."""
    log(Trackers(["tensorboard"], tmp_path, "test", 0, SETTINGS), range(1, 7), 1.0)
    again = Trackers(["tensorboard"], tmp_path, "test", 4, SETTINGS)
    log(again, range(5, 9), 10.0)
    again.go_back(6)
    log(again, range(7, 9), 100.0)
    again.close()
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 50.0), (6, 60.0), (7, 700.0), (8, 800.0)]
    assert tensorboard_curve(tmp_path, "loss") == expected


def test_wandb_goes_on_under_the_same_id(tmp_path: Path) -> None:
    """Offline each start has a file of its own; `wandb sync` makes one run of those with one id."""
    for last_step in (0, 2):
        trackers = Trackers(["wandb"], tmp_path, "test", last_step, SETTINGS)
        log(trackers, range(last_step + 1, last_step + 4), 1.0)
        trackers.close()
    assert sorted(set(wandb_curve(tmp_path, "loss"))) == [(step, float(step)) for step in range(1, 6)]
    ids = {record.run.run_id for record in wandb_records(tmp_path) if record.run.run_id}
    assert ids == {(tmp_path / "wandb-id.txt").read_text()}


def test_a_run_sends_its_figures_and_no_address(tmp_path: Path) -> None:
    secret = "s3cret"
    upload = f"checkpoint.upload=file://{tmp_path}/{secret}"
    run = tiny_run(tmp_path, 'observe.trackers=["tensorboard", "wandb"]', upload, stages=("masked",))
    train_here(run.config)
    folder, lines = run.run.path, run.metrics()
    for name in ("loss", "nats/image", "accuracy/image", "learning_rate"):
        there = [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line]
        assert tensorboard_curve(folder, name) == there and wandb_curve(folder, name) == there, name
    assert len(tensorboard_curve(folder, "tokens_per_second")) == len(lines)
    for file in [*folder.glob("tensorboard/*"), *folder.glob("wandb/offline-run-*/**/*")]:
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file


NOWHERE = "http://127.0.0.1:9"


def test_a_server_that_does_not_answer_costs_the_curve_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    online = {"MODE": "online", "BASE_URL": NOWHERE, "API_KEY": "0" * 40, "INIT_TIMEOUT": "1"}
    for name, value in online.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    trackers = Trackers(["tensorboard", "wandb"], tmp_path, "test", 0, SETTINGS)
    log(trackers, range(1, 3), 1.0)
    trackers.close()
    assert "the run goes on without it" in capsys.readouterr().out
    assert tensorboard_curve(tmp_path, "loss") == [(1, 1.0), (2, 2.0)]


def test_nobody_logged_in_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", NOWHERE)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ValueError, match="Run `wandb login`, or set WANDB_MODE=offline"):
        Trackers(["wandb"], tmp_path, "test", 0, SETTINGS)


def test_a_missing_tracker_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path, 'observe.trackers=["tensorboard"]', stages=("masked",))
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as Python marks what cannot be imported
    message = r"observe\.trackers: tensorboard needs tensorboard: pip install 'unimodel\[track\]'"
    with pytest.raises(MissingExtraError, match=message):
        train_here(run.config)
    assert not run.run.metrics.exists() and not run.run.starts.exists()
