"""One rank of two misbehaves: it is named, with what it did.

Run: pytest tests/distributed/test_observed_ranks.py
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from observed_ranks import AT_STEP, FLIPPED, SKIPPED, SLOW_SECONDS
from tiny_run import ROOT, START_SECONDS, TinyRun, environment, tiny_run

from unimodel.training.checkpoint import list_checkpoints
from unimodel.training.status import run_status


def train_with(what: str, run: TinyRun, rank: int, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command += [str(ROOT / "tests/helpers/observed_ranks.py"), what, str(run.config_file), str(rank)]
    variables = environment() | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/helpers'}"}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=START_SECONDS)


@pytest.mark.parametrize("zero", [0, *(pytest.param(zero, marks=pytest.mark.slow) for zero in (1, 2))])
def test_a_flipped_bit_ends_the_run_with_its_parameter_and_rank(zero: int, tmp_path: Path) -> None:
    """Three ranks, so that one is in the minority."""
    settings = (f"engine.zero={zero}", "observe.check_replicas_every_steps=1", "stages.masked.batch.rows=6")
    run = tiny_run(tmp_path, *settings, stages=("masked",))
    ended = train_with("flip", run, rank=1, ranks=3)
    assert ended.returncode == 1, "start again"
    assert f"corrupted weights at step {AT_STEP}: {FLIPPED} (1 of " in ended.stderr
    assert f"in the minority: rank 1 on {socket.gethostname()}. Run the same command again" in ended.stderr


@pytest.mark.slow
def test_a_flipped_bit_is_not_saved(tmp_path: Path) -> None:
    """The next check is far away, the checkpoint of step 6 is not."""
    run = tiny_run(tmp_path, "observe.check_replicas_every_steps=1000", stages=("masked",))
    ended = train_with("flip", run, rank=1)
    # Adam's step makes more of one bit: other weights differ too by then
    assert ended.returncode == 1 and "corrupted weights at step 6: " in ended.stderr
    assert "rank 0 on" in ended.stderr and "rank 1 on" in ended.stderr, "which of two is right cannot be told"
    assert [path.name for path in list_checkpoints(run.run.checkpoints)] == ["00000003-masked"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["zero=0", "zero=1", "zero=2", "zero=3", "sequence_parallel=2"])
def test_a_skipped_module_ends_the_run_instead_of_hanging_it(engine: str, tmp_path: Path) -> None:
    run = tiny_run(tmp_path, f"engine.{engine}", "observe.check_modules=true", stages=("masked",))
    ended = train_with("skip", run, rank=1)
    assert "every rank must run every trainable module" in ended.stderr, ended.stderr[-3000:]
    if engine in ("zero=3", "sequence_parallel=2"):
        assert f"rank 0 comes to {SKIPPED}.gate_proj, rank 1 comes to decoder.model.norm" in ended.stderr
    else:
        assert f"rank 1 has skipped {SKIPPED}.gate_proj" in ended.stderr and "rank 0 has" not in ended.stderr
    assert run.num_lines() == AT_STEP - 1


@pytest.mark.slow
def test_the_rank_that_others_wait_for_is_named(tmp_path: Path) -> None:
    """Slow in its forward pass; the whole step is as long on both."""
    run = tiny_run(tmp_path, "observe.ranks_every_steps=3", "stages.masked.steps=10", stages=("masked",))
    assert train_with("slow", run, rank=1).returncode == 0
    lines = [json.loads(line) for line in run.run.ranks.read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 9]
    last = lines[-1]
    assert last["slowest"]["rank"] == 1 and last["slowest"]["host"] == socket.gethostname()
    assert last["forward_seconds"][1] >= SLOW_SECONDS
    assert dict(run_status(run.run.path))["slowest rank"].startswith(f"1 on {socket.gethostname()}: ")
