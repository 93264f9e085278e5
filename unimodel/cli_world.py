"""`unimodel world`: the worlds of a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from unimodel.cli_sessions import app as sessions_app

app = typer.Typer(no_args_is_help=True, help=__doc__)
app.add_typer(sessions_app)

MOMENTS = 4000
"""Of recorded play, from which imagined play goes on."""
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
    from unimodel.world.bench import bench
    from unimodel.world.stage import load_world

    if threads is not None:
        torch.set_num_threads(threads)
    for what, speed in bench(load_world(run), worlds, frames, compiled):
        say(f"{what:45} {speed}")


@app.command("plan")
def world_plan(  # noqa: PLR0913 - one parameter per option
    run: WorldRun,
    controller: Annotated[
        str,
        typer.Option(
            help="Who plays beside random actions and behaviour cloning: cem, shooting, pmpo, or several with commas."
        ),
    ] = "cem",
    episodes: Annotated[int, typer.Option(min=1, help="Recorded episodes whose beginnings are played.")] = 20,
    split: Annotated[
        Literal["validation", "test"], typer.Option(help="Held-out episodes: validation while choosing settings.")
    ] = "test",
    max_steps: Annotated[int | None, typer.Option(min=1, help="Longest episode; else the recording's.")] = None,
    horizon: Annotated[int, typer.Option(min=1, help="Steps of a plan.")] = 16,
    plans: Annotated[int, typer.Option(min=2, help="Plans tried per iteration.")] = 256,
    iterations: Annotated[int, typer.Option(min=1, help="How often plans are drawn and fitted to the best.")] = 4,
    discount: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of rewards, per step.")] = 0.95,
    replan_steps: Annotated[int, typer.Option(min=1, help="Actions taken before planning again.")] = 1,
    memory_frames: Annotated[
        int, typer.Option(min=0, help="Frames that imagined worlds remember: with few, planning is fast. 0 is all.")
    ] = 0,
    values: Annotated[bool, typer.Option("--values", help="The model's values judge where a plan ends.")] = False,
    passes: Annotated[int, typer.Option(min=1, help="Refinement passes of an imagined frame.")] = 1,
    stage: Annotated[str | None, typer.Option(help="Stage to use; the last that steps a world otherwise.")] = None,
) -> None:
    """Let controllers play the same episodes in the model and for real; print what they got in both."""
    from rich.table import Table

    from unimodel.evaluation.control import ControlSettings, Pair, play_pairs, score
    from unimodel.observe.progress import console, say
    from unimodel.world.controllers.planner import PlanSettings
    from unimodel.world.controllers.roster import ImaginationSettings, controller_names

    def report(name: str, pair: Pair) -> None:
        ends = [f"{played.total:6.2f} in {played.steps} steps" for played in (pair.imagined, pair.real)]
        say(f"episode {pair.episode:3} {name:10} imagined {ends[0]:22} real {ends[1]}")

    plan = PlanSettings(horizon, plans, iterations, discount=discount, replan_steps=replan_steps)
    imagination = ImaginationSettings(memory_frames, passes, values)
    settings = ControlSettings(controller_names(controller), split, episodes, max_steps, plan, imagination)
    pairs, path = play_pairs(run, stage, settings, report)
    table = Table("controller", "imagined return", "real return", "gap", "solved, imagined", "solved, real")
    for name, some in pairs.items():
        figures = score(some)
        columns = (figures.imagined_return, figures.real_return, figures.gap)
        table.add_row(name, *map(str, (*columns, figures.imagined_solved, figures.real_solved)))
    console.print(table)
    say(f"means over {episodes} episodes of {split} with 95% intervals; every pair is in {path}")


@app.command("learn")
def world_learn(  # noqa: PLR0913 - one parameter per option
    run: WorldRun,
    steps: Annotated[int, typer.Option(min=1, help="Updates of the policy.")] = 1000,
    rolls: Annotated[int, typer.Option(min=1, help="Worlds that are imagined per update.")] = 64,
    horizon: Annotated[int, typer.Option(min=1, help="Steps that are imagined.")] = 16,
    memory_frames: Annotated[int, typer.Option(min=0, help="As in `plan`.")] = 0,
    passes: Annotated[int, typer.Option(min=1, help="Refinement passes of an imagined frame.")] = 1,
    kl_weight: Annotated[float, typer.Option(min=0.0, help="How strongly it is held to the recorded players.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    stage: Annotated[str | None, typer.Option(help="Stage to use; the last that steps a world otherwise.")] = None,
) -> None:
    """Improve the policy that a run has learnt from play, in the model alone; `plan --controller pmpo` plays it."""
    from unimodel.observe.progress import say
    from unimodel.world.agent import Agent
    from unimodel.world.controllers.actor_critic import save_heads
    from unimodel.world.controllers.pmpo import PmpoSettings, Update, learn_in_imagination
    from unimodel.world.controllers.roster import ImaginationSettings, build_imagination
    from unimodel.world.stage import load_world
    from unimodel.world.starts import random_moments

    loaded = load_world(run, stage)
    agent = Agent(loaded)
    imagination = build_imagination(loaded, agent.num_actions, ImaginationSettings(memory_frames, passes))
    starts = random_moments(loaded, "train", MOMENTS, memory_frames or agent.window_frames, seed)
    settings = PmpoSettings(
        steps, rolls, horizon, discount=agent.discount, kl_weight=kl_weight, memory_frames=memory_frames
    )
    every = max(1, steps // 20)

    def report(update: Update) -> None:
        if update.step % every == 0:
            say(f"update {update.step:5}  imagined return {update.imagined_return:.3f}  KL {update.kl:.3f} nats")

    heads = learn_in_imagination(agent, imagination, starts, settings, seed, report)
    say(f"learnt {save_heads(loaded, heads)}")
