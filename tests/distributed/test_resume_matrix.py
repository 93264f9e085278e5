"""Whatever number of ranks, ZeRO stage and precision a run goes on with, it is the same run.

Run: pytest -m slow tests/distributed/test_resume_matrix.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from resume_matrix import HALF, PRECISIONS, ZERO, name_of
from tiny_run import ROOT, environment, tiny_run

from data_pipelines.stream.plan import StreamState
from unimodel.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow
STEPS = 8
RANKS = (2, 1, 3)
"""In this order; from the second on the runs of the one before are moved."""
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}
"""Relative, of losses on another layout: bf16 has 8 bits, and every layout rounds its sums elsewhere."""
SETTINGS = (
    f"stages.interactive.steps={STEPS}",
    "stages.interactive.batch.rows=6",
    f"checkpoint.every_steps={HALF}",
    "checkpoint.keep_last=9",
    "faults.hang_seconds=null",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, trained."""
    folder = tmp_path_factory.mktemp("matrix")
    tiny_run(folder, *SETTINGS, stages=("interactive",))
    before = None
    for ranks in RANKS:
        (folder / "moved_from.json").write_text(json.dumps(before))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        command += [str(ROOT / "tests/helpers/resume_matrix.py"), str(folder)]
        variables = environment()
        variables["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests/helpers'}"
        done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-5000:]
        before = ranks
    return folder


def metrics(runs: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (runs / name / "tiny" / "metrics.jsonl").read_text().splitlines()]


def last_stream(runs: Path, name: str) -> StreamState:
    return load_checkpoint(max((runs / name / "tiny" / "checkpoints").iterdir())).position.stream


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("zero", ZERO)
@pytest.mark.parametrize("ranks", RANKS)
def test_resumed_on_the_same_layout_is_bit_equal(runs: Path, ranks: int, zero: int, precision: str) -> None:
    whole, resumed = (name_of(ranks, zero, precision, kind) for kind in ("whole", "resumed"))
    assert metrics(runs, whole) == metrics(runs, resumed) and len(metrics(runs, whole)) == STEPS
    ends = [max((runs / name / "tiny" / "checkpoints").iterdir()) for name in (whole, resumed)]
    files, others = ({file.name: file.read_bytes() for file in end.glob("*.safetensors")} for end in ends)
    assert files == others and len(files) == ranks


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("zero", ZERO)
@pytest.mark.parametrize("ranks", RANKS[1:])
def test_moved_to_other_ranks_and_zero_stage_is_the_same_run(runs: Path, ranks: int, zero: int, precision: str) -> None:
    moved, source = metrics(runs, name_of(ranks, zero, precision, "moved")), RANKS[RANKS.index(ranks) - 1]
    whole = metrics(runs, name_of(source, (zero + 1) % 4, precision, "whole"))
    for line, there in zip(moved, whole, strict=True):
        assert line["loss"] == pytest.approx(there["loss"], rel=TOLERANCE[precision]), line["step"]
        assert line["tokens"] == there["tokens"]
    names = (name_of(ranks, zero, precision, "moved"), name_of(source, (zero + 1) % 4, precision, "whole"))
    assert last_stream(runs, names[0]) == last_stream(runs, names[1]), "the same samples are consumed"
