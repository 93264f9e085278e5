"""Checkpoints in an object store: a run whose disk was lost goes on from there.

Run: pytest tests/training/test_checkpoint_store.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from file_server import Faults
from object_store import BUCKET, object_store
from tiny_run import require_same_end, tiny_run, train_here

from unimodel.training.checkpoint_store import CheckpointStore

SETTINGS = ("stages.masked.steps=9", "checkpoint.keep_every_steps=6")


def test_a_run_whose_disk_was_lost_goes_on_from_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kept there by the same rules; a store that fails now and then is asked again."""
    whole = tiny_run(tmp_path / "whole", *SETTINGS, stages=("masked", "unified"))
    train_here(whole.config)
    (tmp_path / "empty").mkdir()
    with object_store(tmp_path / "empty", Faults(failure_share=0.05)) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.address)
        address = f"s3://{BUCKET}/checkpoints"
        run = tiny_run(tmp_path / "lost", *SETTINGS, f"checkpoint.upload={address}", stages=("masked", "unified"))
        train_here(run.config)
        names = CheckpointStore(address).names()
        assert names == [path.name for path in sorted(run.run.checkpoints.iterdir(), reverse=True)]
        assert names == [
            "00000016-unified",
            "00000015-unified",
            "00000012-unified",
            "00000009-masked",
            "00000006-masked",
        ]
        _lose_what_came_after(address, names[:2])
        shutil.rmtree(run.run.checkpoints)
        train_here(run.config)
        assert "00000012-unified was fetched from s3://" in capsys.readouterr().out
        assert CheckpointStore(address).names()[0] == "00000016-unified"
    require_same_end(run, whole)


def _lose_what_came_after(address: str, names: list[str]) -> None:
    store = CheckpointStore(address)
    for name in names:
        store._files.rm(f"{store._root}/{name}", recursive=True)


def test_a_store_that_cannot_be_reached_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    run = tiny_run(tmp_path, "checkpoint.upload=s3://nowhere/run", stages=("masked",))
    with pytest.raises(OSError, match="checkpoints at s3://nowhere/run cannot be read"):
        train_here(run.config)


def test_an_upload_that_was_cut_off_is_not_a_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path / "store"))
    for name, files in (("00000001-one", ("rank-00000.safetensors", "state.json")), ("00000002-one", ("rank-00000",))):
        (tmp_path / "store" / name).mkdir(parents=True)
        for file in files:
            (tmp_path / "store" / name / file).write_bytes(b"x")
    assert store.names() == ["00000001-one"]
    assert store.download_newer(tmp_path / "here", "00000001-zzz") is None
    assert store.download_newer(tmp_path / "here", None) == tmp_path / "here" / "00000001-one"
