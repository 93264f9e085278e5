"""The commands of `unimodel world` that keep worlds on disk (docs/worlds.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer()

SessionRun = Annotated[Path, typer.Argument(help="A run folder, such as runs/demo.", show_default=False)]
Name = Annotated[str, typer.Argument(help="Of the world.", show_default=False)]
Stage = Annotated[str | None, typer.Option(help="Stage to live it in; the last that steps a world otherwise.")]
Adopt = Annotated[
    bool, typer.Option("--adopt", help="Go on in this checkpoint though another one lived the world until now.")
]


@app.command("create")
def world_create(
    run: SessionRun,
    name: Name,
    episode: Annotated[int, typer.Option(min=0, help="Recorded episode whose first frame it begins with.")] = 0,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Of that episode.")] = "validation",
    seed: Annotated[int, typer.Option(min=0, help="Of whatever is drawn in it.")] = 0,
    stage: Stage = None,
) -> None:
    """Make a world that outlives the process in which it is lived."""
    from unimodel.observe.progress import say
    from unimodel.world.sessions.from_run import create_world
    from unimodel.world.stage import load_world

    folder = create_world(load_world(run, stage), name, episode, split, seed)
    say(f"made {folder}; `unimodel play {run} --world {name}` plays in it")


@app.command("open")
def world_open(run: SessionRun, name: Name, adopt: Adopt = False, stage: Stage = None) -> None:
    """Bring a world to life, which checks all of it, and say where it goes on."""
    from contextlib import closing

    from unimodel.observe.progress import say
    from unimodel.world.sessions.from_run import revive_world
    from unimodel.world.stage import load_world

    with closing(revive_world(load_world(run, stage), name, "open", adopt=adopt)) as world:
        say(f"'{name}' is alive at tick {world.tick}; {world.replayed_ticks} ticks were lived again to get there")
        say(f"its memory beyond the window has {world.memory_bytes:,} bytes")


@app.command("step")
def world_step(
    run: SessionRun,
    name: Name,
    actions: Annotated[
        str,
        typer.Option(
            help="Numbers or names, with commas between; left+0 for two agents, - for one that is away.",
            show_default=False,
        ),
    ],
    agent: Annotated[str, typer.Option(help="Who acts.")] = "script",
    passes: Annotated[
        int | None, typer.Option(min=1, max=64, help="Refinement passes of a frame; else those of the evaluation.")
    ] = None,
    adopt: Adopt = False,
    stage: Stage = None,
) -> None:
    """Take steps in a world; prints a line for each once it is on the disk."""
    from contextlib import closing
    from hashlib import sha256

    from unimodel.observe.progress import say
    from unimodel.world.sessions.from_run import revive_world
    from unimodel.world.sessions.living import acts_of
    from unimodel.world.sessions.past import frame_bytes
    from unimodel.world.stage import load_world

    loaded = load_world(run, stage)
    with closing(revive_world(loaded, name, "step", adopt=adopt)) as world:
        birth = world.past.birth
        for numbers in birth.ticks_of(actions.split(",")):
            frame = world.step(acts_of(agent, numbers), passes or loaded.config.evaluation.sampling_steps)
            digest = sha256(frame_bytes(frame)).hexdigest()[:16]
            say(f"tick {world.tick:6}  {birth.names_of(numbers):12} frame {digest}")


@app.command("show")
def world_show(run: SessionRun, name: Name) -> None:
    """Say how old a world is, who is in it and how much is kept of it; a model is not needed."""
    from unimodel.observe.progress import say
    from unimodel.run_folder import RunFolder
    from unimodel.world.sessions.summary import describe

    for what, value in describe(RunFolder(run), name):
        say(f"{what:10} {value}")


@app.command("list")
def world_list(run: SessionRun) -> None:
    """List the worlds of a run."""
    from rich.table import Table

    from unimodel.observe.progress import console, say
    from unimodel.run_folder import RunFolder
    from unimodel.world.sessions.summary import lines

    table = Table("world", "ticks", "last lived", "bytes", "state")
    for line in (rows := lines(RunFolder(run))):
        table.add_row(*line)
    if rows:
        console.print(table)
    else:
        say(f"{run} has no worlds: `unimodel world create {run} NAME` makes one")


@app.command("snapshot")
def world_snapshot(
    run: SessionRun,
    name: Name,
    tag: Annotated[str | None, typer.Argument(help="Name of this moment; else tick-N.", show_default=False)] = None,
) -> None:
    """Give the moment in which a world is a name, to come back to. Every tick is kept anyway."""
    from unimodel.observe.progress import say
    from unimodel.run_folder import RunFolder
    from unimodel.world.sessions.catalogue import name_moment

    tick, tag = name_moment(RunFolder(run), name, tag)
    say(f"tick {tick} of '{name}' is '{tag}': `unimodel world rewind {run} {name} --tag {tag}` goes back to it")


@app.command("rewind")
def world_rewind(
    run: SessionRun,
    name: Name,
    tick: Annotated[int | None, typer.Option(min=0, help="Where it goes on.", show_default=False)] = None,
    tag: Annotated[str | None, typer.Option(help="Or the name of a moment.", show_default=False)] = None,
) -> None:
    """Take a world back to a tick. What came after stays in its log, and in no memory."""
    from unimodel.observe.progress import say
    from unimodel.run_folder import RunFolder
    from unimodel.world.sessions.catalogue import moment_of, rewind_world

    to = moment_of(RunFolder(run), name, tick, tag)
    before = rewind_world(RunFolder(run), name, to)
    say(f"'{name}' goes on from tick {to}; it was at {before}, which its log still knows")


@app.command("branch")
def world_branch(
    run: SessionRun,
    name: Name,
    new: Annotated[str, typer.Argument(help="Name of the branch.", show_default=False)],
    tick: Annotated[int | None, typer.Option(min=0, help="Where it begins; else the last one.")] = None,
    tag: Annotated[str | None, typer.Option(help="Or the name of a moment.", show_default=False)] = None,
) -> None:
    """Make another world with the same past. The two share nothing from then on."""
    from unimodel.observe.progress import say
    from unimodel.run_folder import RunFolder
    from unimodel.world.sessions.branching import branch_world
    from unimodel.world.sessions.catalogue import moment_of

    if tick is not None or tag is not None:
        tick = moment_of(RunFolder(run), name, tick, tag)
    say(f"'{new}' has the past of '{name}' up to tick {branch_world(RunFolder(run), name, new, tick)}")


@app.command("delete")
def world_delete(
    run: SessionRun, name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
) -> None:
    """Delete a world with all that is known of it."""
    from unimodel.observe.progress import say
    from unimodel.run_folder import RunFolder
    from unimodel.world.sessions.catalogue import delete_world, require_folder

    folder = require_folder(RunFolder(run), name)
    if not yes:
        typer.confirm(f"Delete {folder} for ever?", abort=True)
    delete_world(RunFolder(run), name)
    say(f"deleted {folder}")


@app.command("log")
def world_log(
    run: SessionRun,
    name: Name,
    frames: Annotated[bool, typer.Option("--frames", help="With the codes of every frame.")] = False,
) -> None:
    """Print all that happened in a world, in order, as JSON lines."""
    import sys

    from unimodel.run_folder import RunFolder
    from unimodel.world.sessions.summary import log_lines

    for line in log_lines(RunFolder(run), name, with_frames=frames):
        sys.stdout.write(line + "\n")
