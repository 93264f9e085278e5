"""`unimodel`: record, verify, train, evaluate, generate, play, export, report. Heavy imports wait for their command."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal, Never

import typer

from launch.cli import app as launch_app
from launch.job import MISTAKE, REQUEUE
from unimodel.cli_card import world_card
from unimodel.cli_data import ConfigFile, Overrides
from unimodel.cli_data import app as data_app
from unimodel.cli_plan import plan_command
from unimodel.cli_play import play_command
from unimodel.cli_world import app as world_app

INTERRUPTED = 130
"""Exit status after Ctrl-C."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
tokenizer_app = typer.Typer(no_args_is_help=True, help="Train the tokenizers of a run.")
config_app = typer.Typer(no_args_is_help=True, help="Look at run configs.")
app.add_typer(data_app, name="data")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(config_app, name="config")
app.add_typer(launch_app, name="launch")
app.add_typer(world_app, name="world")
app.command("plan")(plan_command)
app.command("play")(play_command)

RunPath = Annotated[Path, typer.Argument(help="A run folder, such as runs/demo.", show_default=False)]


@config_app.command("show")
def config_show(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print the resolved config: bases merged, overrides applied, defaults filled in."""
    from unimodel.config_file import dump_config, load_config

    typer.echo(dump_config(load_config(config, overrides)), nl=False)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of run configs, for editors."""
    import json

    from unimodel.config import RunConfig

    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=2))


@app.command("recipes")
def recipes_command(
    name: Annotated[str | None, typer.Argument(help="One of them, to read what it says of itself.")] = None,
) -> None:
    """List the run configs of known systems and of worlds trained here, or tell all that one says of itself."""
    from unimodel.recipes import find_recipe, list_recipes

    if name is not None:
        recipe = find_recipe(name)
        typer.echo(f"{recipe.path}\n\n{recipe.about}")
        return
    recipes = list_recipes()
    width = max(len(recipe.name) for recipe in recipes)
    for recipe in recipes:
        typer.echo(f"{recipe.name:{width}}  {recipe.title}")


@tokenizer_app.command("train")
def tokenizer_train(config: ConfigFile, overrides: Overrides = None) -> None:
    """Train the text and image tokenizers on the recorded shards."""
    from unimodel.config_file import load_config
    from unimodel.observe.progress import say
    from unimodel.run_folder import RunFolder
    from unimodel.tokenizers.finished import has_tokenizers

    settings = load_config(config, overrides)
    run = RunFolder(settings.folder)
    with run.locked():
        if has_tokenizers(settings, run):
            say(f"already trained: {run.tokenizers}")
            return
        from unimodel.tokenizers.prepare import train_tokenizers

        train_tokenizers(settings, run)
    say(f"trained {run.tokenizers}")


@app.command("train")
def train_command(
    config: ConfigFile,
    overrides: Overrides = None,
    check: Annotated[
        bool, typer.Option(help="First look at all nodes: devices, clock, disk, folder, bandwidth.")
    ] = False,
) -> None:
    """Train all stages of a config; the same command again continues an interrupted run."""
    from contextlib import nullcontext

    from unimodel.config_file import load_config
    from unimodel.observe.progress import say
    from unimodel.run_folder import RunFolder
    from unimodel.training.finished import is_trained

    settings = load_config(config, overrides)
    run = RunFolder(settings.folder)
    is_main = os.environ.get("RANK", "0") == "0"
    with run.locked() if is_main else nullcontext():
        # Ranks look at the checkpoints together once they have met: each by itself would hash all of them.
        if "RANK" not in os.environ and is_trained(settings, run):
            say(f"already trained: {run.path}")
            return
        from unimodel.training.train import train

        train(settings, check=check)


@app.command("status")
def status_command(run: RunPath) -> None:
    """Tell how a run is doing: progress, speed, useful time, starts, checkpoints, and what went wrong."""
    from unimodel.observe.progress import say
    from unimodel.training.status import run_status

    for what, how in run_status(run):
        say(f"{what:20} {how}")


@app.command("eval")
def eval_command(
    run: RunPath,
    split: Annotated[
        Literal["validation", "test"], typer.Option(help="Held-out episodes: validation while choosing settings.")
    ] = "test",
    stage: Annotated[
        Literal["world"] | None, typer.Option(help="world: the score card of the last stage that steps a world.")
    ] = None,
) -> None:
    """Evaluate every finished stage on held-out episodes; print the table and write summary.json."""
    if stage == "world":
        world_card(run, split)
        return
    from unimodel.evaluation.finished import is_evaluated
    from unimodel.observe.progress import say
    from unimodel.run_folder import RunFolder

    folder = RunFolder(run)
    config = folder.config()
    with folder.locked():
        if is_evaluated(config, folder, split):
            say("already evaluated with these weights")
        else:
            from unimodel.evaluation.evaluate import evaluate

            evaluate(run, split)
    summary_command([run])


@app.command("summary")
def summary_command(
    runs: Annotated[
        list[Path], typer.Argument(help="A run folder, or several of one config with other seeds.", show_default=False)
    ],
    details: Annotated[bool, typer.Option(help="The second table too: figures that say more.")] = False,
) -> None:
    """Print the table of the last evaluation, and where a run's results lie; of several runs, mean and interval."""
    from rich.table import Column, Table

    from unimodel.evaluation.several_runs import lines_over_runs, read_evaluation
    from unimodel.evaluation.table import table_lines
    from unimodel.observe.progress import console, say
    from unimodel.run_folder import RunFolder

    for part in ("rows", "details") if details else ("rows",):
        table = Table("metric", Column("stage", overflow="fold"), "model [95%]", "baseline", "better?")
        for line in lines_over_runs(runs, part) if len(runs) > 1 else table_lines(read_evaluation(runs[0])[part]):
            table.add_row(*line)
        if table.rows:
            console.print(table)
    if len(runs) == 1:
        folder = RunFolder(runs[0])
        for path in (folder.summary, folder.report, folder.path / "export"):
            if path.exists():
                say(str(path))


@app.command("report")
def report_command(run: RunPath) -> None:
    """Write report.html into the run folder: figures, curves, and generated frames beside real ones."""
    from unimodel.evaluation.finished import is_reported
    from unimodel.observe.progress import say
    from unimodel.run_folder import RunFolder

    folder = RunFolder(run)
    folder.config()
    if is_reported(folder):
        say(f"already up to date; delete it to make it again: {folder.report}")
        return
    from unimodel.evaluation.report import write_report

    say(f"report: {write_report(run)}")


@app.command("generate")
def generate_command(  # noqa: PLR0913 - one parameter per option
    run: RunPath,
    text: Annotated[str | None, typer.Option(help="Draw a picture of this text.")] = None,
    image: Annotated[Path | None, typer.Option(help="Describe this picture.")] = None,
    actions: Annotated[
        str | None,
        typer.Option(help="Next frames for these actions: left,forward,... or numbers; left+up,... of agents."),
    ] = None,
    episode: Annotated[int, typer.Option(help="Held-out episode whose first frame --actions starts from.")] = 0,
    stage: Annotated[
        str | None, typer.Option(help="Use the weights of this stage; the last finished one otherwise.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Refinement passes of a picture.")] = 8,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest codes, 1 samples.")] = 0.0,
    guidance: Annotated[float, typer.Option(min=0.0, help="Classifier-free guidance scale; 1 is off.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="File to write; in the run's samples/ otherwise.")] = None,
) -> None:
    """Text to picture (PNG), picture to text, or next frames from actions (GIF)."""
    from unimodel.generate import frames_from_actions, image_from_text, save_film, save_picture, text_from_image
    from unimodel.observe.progress import say
    from unimodel.sampling.fill import FillSettings
    from unimodel.training.loaded_run import load_run
    from unimodel.world.stage import load_world

    if sum(option is not None for option in (text, image, actions)) != 1:
        raise ValueError("give exactly one of --text, --image and --actions")
    loaded = load_world(run, stage) if actions is not None else load_run(run, stage)
    samples = loaded.run.samples
    if text is not None:
        settings = FillSettings(steps, temperature, choice_temperature=4.5 * temperature, guidance=guidance)
        path = out or samples / "text_to_image.png"
        save_picture(image_from_text(loaded, text, settings, seed), path)
        say(f"wrote {path}")
    elif image is not None:
        say(text_from_image(loaded, image))
    elif actions is not None:
        path = out or samples / "frames.gif"
        save_film(frames_from_actions(loaded, actions.split(","), episode, seed), path)
        say(f"wrote {path}")


@app.command("export")
def export_command(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    push: Annotated[str | None, typer.Option(help="Also push to the Hugging Face Hub: OWNER/NAME.")] = None,
    private: Annotated[bool, typer.Option(help="Make the pushed repository private.")] = False,
) -> None:
    """Write the run as a Hugging Face folder, reload it in a clean process and compare; optionally push it."""
    from unimodel.export.finished import is_exported
    from unimodel.observe.progress import say
    from unimodel.run_folder import RunFolder

    folder = RunFolder(run)
    if is_exported(folder.config(), folder, out):
        say(f"already exported: {out}")
    else:
        from unimodel.export.folder import export_run

        export_run(run, out)
        say(f"exported, reloaded in a clean process, logits equal: {out}")
    if push is not None:
        from unimodel.export.push import push_export

        say(f"pushed to {push_export(out, push, private=private)}")


def main() -> None:
    """Runs the command line; a user's mistake ends in one message and a non-zero status, never in a traceback."""
    from data_pipelines.extras import MissingExtraError
    from unimodel.errors import LostError, RunError, Stopped, agent_pid, is_first_to_fail, tell_agent_of_mistake

    # Read when torch loads OpenMP: a waiting thread spins briefly, then sleeps. Spinning for ever makes steps
    # ten times slower as soon as another process wants a core, sleeping at once a quarter slower on a free machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        app(standalone_mode=True)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:  # typer turns Ctrl-C into a silent exit
            _fail("interrupted; what was written stays, and the same command goes on from there", INTERRUPTED)
        raise
    except Stopped as stopped:
        _fail(str(stopped), INTERRUPTED if stopped.by_hand else REQUEUE)
    except OSError as error:
        full = error.errno == errno.ENOSPC or "No space left" in str(error)
        _fail(f"{error}{'; the disk is full: free space and run the same command again' if full else ''}", 1)
    except LostError as error:
        _fail(str(error), 1)
    except (ValueError, FloatingPointError, RunError, MissingExtraError) as error:
        if agent_pid() is None:
            _fail(str(error), MISTAKE)
        if is_first_to_fail():
            _tell(str(error))
            tell_agent_of_mistake()
        sys.stdout.flush()
        os._exit(MISTAKE)  # threads of torch's are at work still, under which Python would end with an abort


def _fail(message: str, status: int) -> Never:
    _tell(message)
    sys.exit(status)


def _tell(message: str) -> None:
    """Of the error that is being handled."""
    if os.environ.get("UNIMODEL_TRACEBACK"):
        traceback.print_exc()
    else:
        sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
