"""One process group, many engines: trains a tiny run under every set of settings it is given.

Run under torchrun: parallel_runs.py FOLDER. FOLDER/runs.json has `name -> overrides`; FOLDER/name is that run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from resume_matrix import prepare
from tiny_run import ROOT, environment, train_here

from unimodel.config_file import load_config


def train_on_ranks(ranks: int, folder: Path, runs: dict[str, tuple[str, ...]]) -> None:
    """Trains the run in `folder` on so many ranks, once for each of `runs`."""
    (folder / "runs.json").write_text(json.dumps(runs))
    launch_helper(ranks, __file__, str(folder))


def launch_helper(ranks: int, file: str, *arguments: str) -> None:
    """Runs a helper under torchrun to its end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    variables = environment() | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/helpers'}"}
    done = subprocess.run(
        [*command, file, *arguments], env=variables, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]


def train_again(folder: Path, name: str, overrides: tuple[str, ...], source: str | None = None) -> None:
    """One of the runs, from its start or from the first steps of the run `source`, on the ranks that call this."""
    config = load_config(folder / "config.yaml", [f"runs_folder={folder / name}", *overrides])
    prepare(folder, config, source)
    train_here(config)


def metrics(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name / "tiny" / "metrics.jsonl").read_text().splitlines()]


def main() -> None:
    from unimodel.training.engine import start_process_group

    folder = Path(sys.argv[1])
    start_process_group(load_config(folder / "config.yaml").engine)
    for name, overrides in json.loads((folder / "runs.json").read_text()).items():
        train_again(folder, name, tuple(overrides))
    dist.barrier()


if __name__ == "__main__":
    main()
