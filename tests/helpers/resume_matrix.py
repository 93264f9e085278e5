"""One process group, many engines: trains a tiny run under every ZeRO stage and precision, whole and resumed.

Run under torchrun: resume_matrix.py FOLDER. For every combination FOLDER/RANKS-ZERO-PRECISION-whole is trained without
interruption, `-resumed` again from its own checkpoint of step HALF, and `-moved` from the one of another number of
ranks, where FOLDER/moved_from.json names one.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch.distributed as dist
from tiny_run import train_here

from unimodel.config import RunConfig
from unimodel.config_file import load_config
from unimodel.run_folder import RunFolder

HALF = 4
ZERO, PRECISIONS = (0, 1, 2, 3), ("fp32", "bf16")


def name_of(ranks: int, zero: int, precision: str, kind: str) -> str:
    return f"{ranks}-{zero}-{precision}-{kind}"


def config_of(folder: Path, name: str, zero: int, precision: str) -> RunConfig:
    """The config in `folder`, with a folder of runs and an engine of its own."""
    overrides = [f"runs_folder={folder / name}", f"engine.zero={zero}", f"engine.precision={precision}"]
    return load_config(folder / "config.yaml", overrides)


def prepare(folder: Path, config: RunConfig, source: str | None) -> None:
    """A run folder with the tokens of the one in `folder`, and the first half of the run called `source`."""
    if dist.get_rank() == 0:
        run = RunFolder(config.folder)
        run.path.mkdir(parents=True)
        for part in ("tokenizers", "tokens"):
            (run.path / part).symlink_to(folder / "runs" / "tiny" / part)
        if source is not None:
            half = next((folder / source / "tiny" / "checkpoints").glob(f"{HALF:08d}-*"))
            shutil.copytree(half, run.checkpoints / half.name)
            lines = (folder / source / "tiny" / "metrics.jsonl").read_bytes().splitlines(keepends=True)
            run.metrics.write_bytes(b"".join(lines[:HALF]))
    dist.barrier()


def main() -> None:
    from unimodel.training.engine import start_process_group

    folder = Path(sys.argv[1])
    moved_from = json.loads((folder / "moved_from.json").read_text())
    start_process_group(load_config(folder / "config.yaml").engine)
    ranks = dist.get_world_size()
    for precision in PRECISIONS:
        for zero in ZERO:
            whole = name_of(ranks, zero, precision, "whole")
            sources = {"whole": None, "resumed": whole}
            if moved_from is not None:
                # Also to the next ZeRO stage.
                sources["moved"] = name_of(moved_from, (zero + 1) % 4, precision, "whole")
            for kind, source in sources.items():
                config = config_of(folder, name_of(ranks, zero, precision, kind), zero, precision)
                prepare(folder, config, source)
                train_here(config)
    dist.barrier()


if __name__ == "__main__":
    main()
