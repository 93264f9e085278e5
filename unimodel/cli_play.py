"""`unimodel play`: a person in the world that a run has learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

World = Annotated[
    str | None,
    typer.Option(help="Go on in this world of the run, which all who come share (docs/worlds.md).", show_default=False),
]
Bots = Annotated[
    list[str] | None,
    typer.Option(
        help="In a --world of several agents, a program that is one of them: random, or policy; may be repeated.",
        show_default=False,
    ),
]


def play_command(  # noqa: PLR0913 - one parameter per option
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/demo.", show_default=False)],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    expose: Annotated[bool, typer.Option("--expose", help="A --host that other machines reach is meant.")] = False,
    token: Annotated[
        str | None, typer.Option(help="What the page must know; random otherwise.", show_default=False)
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Another run, for blind comparisons.", show_default=False)
    ] = None,
    world: World = None,
    adopt: Annotated[bool, typer.Option("--adopt", help="Though another checkpoint lived --world until now.")] = False,
    bot: Bots = None,
    stage: Annotated[
        str | None, typer.Option(help="Stage to play; the last finished one otherwise.", show_default=False)
    ] = None,
    fps: Annotated[float, typer.Option(help="Steps a second, in real time.")] = 10.0,
    passes: Annotated[int, typer.Option(help="Refinement passes of a frame; fewer where time is short.")] = 4,
    clients: Annotated[int, typer.Option(min=1, max=64, help="Most clients at once.")] = 8,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="With torch.compile: for a GPU; first frames take tens of seconds.")
    ] = False,
) -> None:
    """Play in a trained world with the browser, the real environment beside it (docs/play.md)."""
    from data_pipelines.extras import load_extra

    for library in ("fastapi", "uvicorn", "websockets"):
        load_extra(library, "play", "unimodel play")
    from unimodel.run_folder import RunFolder
    from unimodel.world.play.address import Address, bind
    from unimodel.world.play.settings import Limits, PlaySettings
    from unimodel.world.sessions.catalogue import kept_token, require_world
    from unimodel.world.stage import world_stage

    if bot and world is None:
        raise ValueError("--bot is an agent of a world of several that is kept: name it with --world")
    if world is not None:
        if compare is not None:
            raise ValueError("--world is one world that goes on, and --compare plays two new ones: choose one of them")
        token = token or kept_token(require_world(RunFolder(run), world))
    address = Address.chosen(host, port, token, exposed=expose)
    settings = PlaySettings(fps, passes, Limits(max_clients=clients), compiled)
    try:
        stages = [(run, world_stage(run, stage))]
        if compare is not None:
            stages.append((compare, world_stage(compare)))
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    with bind(address) as listener:  # before the seconds that loading takes; nobody is listened to yet
        from unimodel.world.play.serve import serve, serve_world

        if world is not None:
            serve_world(*stages[0], world, settings, address, listener, adopt=adopt, bots=bot or ())
        else:
            serve(stages, settings, address, listener)
