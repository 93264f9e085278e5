"""Checkpoints: whole or not at all, damaged ones passed over aloud, another config refused by name.

Run: pytest tests/training/test_checkpoints.py
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from saved_checkpoints import save_checkpoint
from tiny_run import TinyRun, require_same_end, tiny_run, train_here

from data_pipelines.stream.plan import StreamState
from unimodel.config import CheckpointConfig, EngineConfig
from unimodel.config_file import load_config
from unimodel.training.checkpoint import (
    STATE,
    TrainPosition,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    stage_checkpoint,
)
from unimodel.training.checkpoint_writer import CheckpointWriter
from unimodel.training.engine import start_process_group
from unimodel.training.finished import require_same_config
from unimodel.training.named_state import MOMENTS
from unimodel.training.stored_state import AVERAGE, WEIGHT, Held, StoredState, rank_file

RANKS = 2
FILES = (rank_file(0), rank_file(1), STATE)


def position(step: int, stage: str = "one", done: bool = False) -> TrainPosition:
    return TrainPosition(step, stage, step, done, step, StreamState(2, step, (7, 9), (0.1, -0.1)))


def saved(folder: Path, step: int, stage: str = "one", done: bool = False) -> Path:
    tensors = {kind: {"a.weight": torch.full((3, 2), float(step))} for kind in (WEIGHT, AVERAGE, *MOMENTS)}
    return save_checkpoint(folder, position(step, stage, done), {"seed": 1}, tensors, RANKS)


def flip_byte(path: Path, offset: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A whole run that kept all its checkpoints; read-only."""
    run = tiny_run(tmp_path_factory.mktemp("finished"), "checkpoint.keep_last=100")
    train_here(run.config)
    return run


@pytest.fixture
def in_progress(finished: TinyRun, tmp_path: Path) -> TinyRun:
    """A copy of that run as it was after step 13, in its second stage, with the checkpoints 3, 6, 7, 10, 13."""
    shutil.copytree(finished.config_file.parent, tmp_path / "copy")
    values = finished.config_file.read_text().replace(str(finished.config_file.parent), str(tmp_path / "copy"))
    (tmp_path / "copy" / "config.yaml").write_text(values)
    run = TinyRun(tmp_path / "copy" / "config.yaml", load_config(tmp_path / "copy" / "config.yaml"))
    for path in list_checkpoints(run.run.checkpoints):
        if int(path.name.split("-")[0]) > 13:
            shutil.rmtree(path)
    return run


def steps_of(folder: Path) -> list[int]:
    return [int(path.name.split("-")[0]) for path in list_checkpoints(folder)]


# --- what is saved --------------------------------------------------------------------------------------------------


def test_checkpoint_comes_back(tmp_path: Path) -> None:
    folder = saved(tmp_path, 4)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.position == position(4) and checkpoint.config == {"seed": 1}
    assert torch.equal(checkpoint.state().weights()["a.weight"], torch.full((3, 2), 4.0))
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name], "nothing half-written stays"


def test_left_over_of_a_killed_save_is_ignored_and_replaced(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    left_over = tmp_path / ".00000004-one.tmp"
    left_over.mkdir()
    (left_over / rank_file(5)).write_bytes(b"half")
    assert steps_of(tmp_path) == [3]
    start_process_group(EngineConfig())
    writer = CheckpointWriter(tmp_path, CheckpointConfig(), {}, pytest.fail)
    assert not left_over.exists()
    writer.start(position(4), [Held(WEIGHT, "a", (2,), 0, torch.ones(2))])
    assert writer.finish()
    assert steps_of(tmp_path) == [4, 3]
    load_checkpoint(tmp_path / "00000004-one")


def test_pruning_keeps_the_newest_of_the_stage_and_all_other_stages(tmp_path: Path) -> None:
    for step in (1, 2):
        saved(tmp_path, step, "one", done=step == 2)
    for step in (3, 4, 5):
        saved(tmp_path, step, "two")
    prune_checkpoints(tmp_path, "two", keep_last=2)
    assert steps_of(tmp_path) == [5, 4, 2, 1]


def test_pruning_keeps_every_so_many_steps(tmp_path: Path) -> None:
    for step in range(1, 10):
        saved(tmp_path, step)
    prune_checkpoints(tmp_path, "one", keep_last=2, keep_every_steps=3)
    assert steps_of(tmp_path) == [9, 8, 6, 3]


def test_any_part_is_read_from_the_ranks_that_held_it(tmp_path: Path) -> None:
    values = torch.arange(12.0).reshape(3, 4)
    folder = save_checkpoint(tmp_path, position(1), {}, {WEIGHT: {"a": values}}, ranks=5)
    state = StoredState(folder)
    assert torch.equal(state.whole(WEIGHT, "a"), values)
    for start in range(12):
        for stop in range(start, 13):
            assert state.piece(WEIGHT, "a", start, stop - start).tolist() == list(range(start, stop))
    (folder / rank_file(2)).unlink()
    with pytest.raises(ValueError, match=r"weight/a has no elements 6 to 9: a rank's file is missing"):
        StoredState(folder).weights()


def test_stage_checkpoint_is_the_finished_one(tmp_path: Path) -> None:
    saved(tmp_path, 2, "one", done=True)
    saved(tmp_path, 3, "two")
    assert stage_checkpoint(tmp_path, "one").position.step == 2
    with pytest.raises(FileNotFoundError, match="no finished checkpoint of stage 'two'"):
        stage_checkpoint(tmp_path, "two")


def test_run_keeps_the_checkpoints_its_config_asks_for(tmp_path: Path, finished: TinyRun) -> None:
    assert sorted(steps_of(finished.run.checkpoints)) == [3, 6, 7, 10, 13, 14, 17, 20, 21]
    run = tiny_run(tmp_path, "checkpoint.keep_last=1")
    train_here(run.config)
    assert sorted(steps_of(run.run.checkpoints)) == [7, 14, 21], "the last one of every stage"


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("name", FILES)
def test_damaged_newest_is_passed_over_with_a_warning(name: str, damage: str, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    file = saved(tmp_path, 2) / name
    if damage == "flip":
        flip_byte(file, offset=40 if name == STATE else -3)
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        file.unlink()
    warnings: list[str] = []
    checkpoint = newest_checkpoint(tmp_path, warnings.append)
    if checkpoint is not None and checkpoint.position.step == 2:
        pytest.fail(f"{name}: {damage} went unnoticed")
    assert checkpoint is not None and checkpoint.position == position(1)
    assert len(warnings) == 1 and str(file.parent) in warnings[0] and name in warnings[0]


def test_no_flipped_bit_of_the_state_goes_unnoticed(tmp_path: Path) -> None:
    """Also one that leaves valid JSON: another step would replay or skip samples."""
    file = saved(tmp_path, 27) / STATE
    content = file.read_bytes()
    for offset in range(len(content)):
        flip_byte(file, offset)
        with pytest.raises(ValueError, match=r"checkpoint .* (missing|damaged)"):
            load_checkpoint(file.parent)
        file.write_bytes(content)
    load_checkpoint(file.parent)


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    for step in (1, 2):
        flip_byte(saved(tmp_path, step) / rank_file(1))
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged: delete the folder"):
        newest_checkpoint(tmp_path, lambda _: None)
    assert newest_checkpoint(tmp_path / "none", lambda _: None) is None


def test_run_falls_back_and_ends_as_if_nothing_had_happened(
    in_progress: TinyRun, finished: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_byte(in_progress.run.checkpoints / "00000013-unified" / rank_file(0))
    train_here(in_progress.config)
    shown = capsys.readouterr().out
    assert "warning" in shown and "00000013-unified" in shown and rank_file(0) in shown
    require_same_end(in_progress, finished)


def test_run_with_only_damaged_checkpoints_loses_nothing(in_progress: TinyRun) -> None:
    for path in list_checkpoints(in_progress.run.checkpoints):
        flip_byte(path / rank_file(0))
    before = in_progress.run.metrics.read_bytes()
    with pytest.raises(ValueError, match="every checkpoint in"):
        train_here(in_progress.config)
    assert in_progress.run.metrics.read_bytes() == before


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3, 7, 13, 20])
def test_run_goes_on_from_any_checkpoint_byte_for_byte(step: int, finished: TinyRun, tmp_path: Path) -> None:
    """In the middle of a stage, at its end, and in a stage whose optimizer state was carried over."""
    run = tiny_run(tmp_path, "checkpoint.keep_last=100")
    for path in list_checkpoints(finished.run.checkpoints):
        if int(path.name.split("-")[0]) <= step:
            shutil.copytree(path, run.run.checkpoints / path.name)
    first_lines = finished.run.metrics.read_bytes().splitlines(keepends=True)[: step + 1]
    run.run.metrics.write_bytes(b"".join(first_lines) + b'{"step": 99, "torn')
    train_here(run.config)
    require_same_end(run, finished)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_bf16_run_goes_on_byte_for_byte(zero: int, tmp_path: Path) -> None:
    """The fp32 masters and the rounded copy that the forward pass reads both come back."""
    settings = ("checkpoint.keep_last=100", "engine.precision=bf16", f"engine.zero={zero}")
    whole = tiny_run(tmp_path / "whole", *settings, stages=("masked",))
    train_here(whole.config)
    run = tiny_run(tmp_path / "resumed", *settings, stages=("masked",))
    shutil.copytree(whole.run.checkpoints / "00000003-masked", run.run.checkpoints / "00000003-masked")
    run.run.metrics.write_bytes(b"".join(whole.run.metrics.read_bytes().splitlines(keepends=True)[:3]))
    train_here(run.config)
    require_same_end(run, whole)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("stages.unified.optimizer.learning_rate=0.5", r"stages\.unified\..*learning_rate \(was 0\.003, is 0\.5\)"),
        ("seed=12", r"seed \(was 11, is 12\)"),
        ("backbone.num_layers=3", r"backbone\.num_layers \(was 2, is 3\)"),
    ],
)
def test_another_config_is_refused_by_name(override: str, named: str, in_progress: TinyRun) -> None:
    changed = load_config(in_progress.config_file, [override])
    before = in_progress.run.metrics.read_bytes()
    with pytest.raises(ValueError, match=f"made with another config; different: {named}"):
        train_here(changed)
    assert in_progress.run.metrics.read_bytes() == before


def test_a_setting_that_is_newer_than_a_checkpoint_had_its_default(in_progress: TinyRun) -> None:
    newest = load_checkpoint(list_checkpoints(in_progress.run.checkpoints)[0])
    older = json.loads(json.dumps(newest.config))
    del older["stages"]["unified"]["optimizer"]["weight_decay"]
    older = replace(newest, config=older)
    require_same_config(in_progress.config, older)
    changed = load_config(in_progress.config_file, ["stages.unified.optimizer.weight_decay=0.5"])
    with pytest.raises(ValueError, match=r"different: stages\.unified\.optimizer\.weight_decay \(was 0\.05, is 0\.5\)"):
        require_same_config(changed, older)
    unknown = replace(newest, config=newest.config | {"seed": 12, "retired": 1})
    with pytest.raises(ValueError, match=r"different: seed \(was 12, is 11\)"):
        require_same_config(in_progress.config, unknown)


@pytest.mark.parametrize("setting", ["engine.zero=1", "engine.zero=3", "stages.unified.batch.accumulation=2"])
def test_what_leaves_the_result_as_it_is_may_change(setting: str, in_progress: TinyRun, finished: TinyRun) -> None:
    train_here(load_config(in_progress.config_file, [setting]))
    for line, there in zip(in_progress.metrics(), finished.metrics(), strict=True):
        assert line["loss"] == pytest.approx(there["loss"], rel=1e-5)


# --- a full disk ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system that holds one checkpoint of the tiny run and a half."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_keeps_the_older_checkpoint_and_the_run_goes_on(
    small_disk: Path, finished: TinyRun, tmp_path: Path
) -> None:
    run = tiny_run(tmp_path / "full", "checkpoint.keep_last=100")
    run.run.checkpoints.symlink_to(small_disk)
    with pytest.raises(OSError, match=r"checkpoint of step 7 could not be written: free disk space and run the same"):
        train_here(run.config)
    assert steps_of(run.run.checkpoints) != [] and max(steps_of(run.run.checkpoints)) < 21
    assert not list(run.run.checkpoints.glob(".*")), "the half-written one is removed"
    for path in list_checkpoints(run.run.checkpoints):
        load_checkpoint(path)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    train_here(run.config)
    require_same_end(run, finished)
