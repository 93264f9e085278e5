"""`unimodel world`: the worlds of a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help=__doc__)

WorldRun = Annotated[Path, typer.Argument(help="A run folder, such as runs/demo.", show_default=False)]


@app.command("bench")
def world_bench(
    run: WorldRun,
    worlds: Annotated[int, typer.Option(min=1, help="Stepped together, in one batch.")] = 1,
    frames: Annotated[int, typer.Option(min=10, help="Steps that each figure is measured over.")] = 100,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; else as many as torch takes.")] = None,
    compiled: Annotated[bool, typer.Option("--compiled", help="With torch.compile: for a GPU.")] = False,
) -> None:
    """Measure how fast this machine steps a world: frames/s, p50 and p95, and the milliseconds of every part."""
    import torch

    from unimodel.observe.progress import say
    from unimodel.training.loaded_run import load_run
    from unimodel.world.bench import bench

    if threads is not None:
        torch.set_num_threads(threads)
    for what, speed in bench(load_run(run), worlds, frames, compiled):
        say(f"{what:45} {speed}")
