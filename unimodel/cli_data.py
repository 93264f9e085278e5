"""`unimodel data`: record, build, index, check, describe and tokenise shards. Heavy imports wait for their command."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from data_pipelines.sources.recording import Recording

app = typer.Typer(no_args_is_help=True, help="Record, build, index, check and describe shards.")

ConfigFile = Annotated[Path, typer.Argument(help="A YAML run config.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Change one value: a.b=c. May be repeated.")]
ShardFolder = Annotated[
    str, typer.Argument(help="A folder of shards, or of splits, or the address of one.", show_default=False)
]


@app.command("record")
def data_record(
    config: ConfigFile,
    overrides: Overrides = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Worker processes; one per core otherwise.")] = None,
) -> None:
    """Play episodes in the config's environments and write them as shards."""
    from data_pipelines.sources.recording import Recording
    from unimodel.config_data import recordings
    from unimodel.config_file import load_config, settings_of
    from unimodel.observe.progress import say

    run = load_config(config, overrides)
    for folder, settings in recordings(run.data).items():
        worked = _record(folder, Recording(seed=run.seed, **settings_of(settings)), processes)
        say(f"{'recorded' if worked else 'already recorded:'} {folder}")


def _record(folder: Path, recording: Recording, processes: int | None) -> bool:
    """With how fast it goes beside the bar. False when there was nothing to do."""
    from data_pipelines.sources.recording import record_dataset
    from unimodel.observe.progress import ProgressBar
    from unimodel.world.run_policy import load_policy

    began, made = time.monotonic(), 0

    def tell(episodes: int, frames: int) -> None:
        nonlocal made
        made += frames
        bar.advance(episodes, f"{made / (time.monotonic() - began):,.0f} frames/s")

    with ProgressBar(f"recording {recording.environment}", sum(recording.splits.values())) as bar:
        return record_dataset(folder, recording, tell, processes, load_policy)


@app.command("build")
def data_build(
    build: Annotated[Path, typer.Argument(help="A YAML build file: configs/data/ has examples.", show_default=False)],
    overrides: Overrides = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Worker processes; one per core otherwise.")] = None,
) -> None:
    """Turn files or episodes made elsewhere into shards; the same command again continues an interrupted build."""
    from data_pipelines.build.build import build_dataset
    from data_pipelines.build.settings import BuildSettings
    from unimodel.config_file import load_settings
    from unimodel.observe.progress import ProgressBar, say

    settings = load_settings(build, overrides, BuildSettings, "build file")
    worked = build_dataset(settings, ProgressBar, processes)
    say(f"{'built' if worked else 'already built:'} {settings.folder}")


@app.command("index")
def data_index(
    folder: Annotated[Path, typer.Argument(help="A folder of tars, or of splits.", show_default=False)],
    processes: Annotated[int | None, typer.Option(min=1, help="Worker processes; one per core otherwise.")] = None,
    max_member_megabytes: Annotated[int, typer.Option(min=1, help="Refuse tars with a larger file in them.")] = 1024,
) -> None:
    """Index WebDataset tars made elsewhere, in place: every other command reads them then."""
    from data_pipelines.shards.foreign import foreign_folders, index_folder, is_indexed
    from unimodel.observe.progress import ProgressBar, say

    for place in foreign_folders(folder):
        if is_indexed(place):
            say(f"already indexed: {place}")
            continue
        with ProgressBar(f"indexing {place.name}", len(list(place.glob("*.tar")))) as bar:
            cores = processes or len(os.sched_getaffinity(0))
            index_folder(place, bar.advance, cores, max_member_megabytes << 20)
        say(f"indexed {place}")


@app.command("verify")
def data_verify(folder: ShardFolder) -> None:
    """Check every byte of a data set: checksums, decodability, counts. Damage is named by shard, sample and byte."""
    from data_pipelines.shards.verify import verify_dataset
    from unimodel.observe.progress import say

    report = verify_dataset(folder)
    for problem in report.problems:
        say(f"damaged: {problem}")
    if not report.ok:
        raise ValueError(
            f"{folder}: {len(report.problems)} problems in {report.num_samples} samples; make the named shards again"
        )
    counts = f"{report.num_samples} samples in {report.num_shards} shards, {report.num_bytes:,} bytes"
    say(f"{folder} ({', '.join(report.splits)}): {counts}, all good")


@app.command("stats")
def data_stats(
    folder: Annotated[
        str,
        typer.Argument(
            help="A folder of shards, or of splits, the address of one, or a run folder.", show_default=False
        ),
    ],
    sheet: Annotated[Path | None, typer.Option(help="Also write a page of samples to look at: FILE.html.")] = None,
) -> None:
    """Describe a data set: counts and lengths, and of episodes actions and success, as JSON. Of a run: what its stages
    draw from its data, how full their rows are and how even their ranks."""
    import json

    from data_pipelines.shards.stats import dataset_stats
    from unimodel.run_folder import RunFolder

    run = RunFolder(Path(folder))
    if run.config_file.exists():
        from unimodel.training.mixture_preview import preview_mixtures

        if sheet is not None:
            raise ValueError(f"{folder} is a run: a sheet shows the samples of a folder of shards")
        typer.echo(json.dumps(preview_mixtures(run.config(), run), indent=2))
        return
    typer.echo(json.dumps(dataset_stats(folder), indent=2))
    if sheet is not None:
        from data_pipelines.sources.sample_sheet import write_sample_sheet
        from unimodel.observe.progress import say

        write_sample_sheet(folder, sheet)
        say(f"samples: {sheet}")


@app.command("bench")
def data_bench(
    path: Annotated[Path, typer.Argument(help="A folder of shards or splits, or a run folder.", show_default=False)],
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each figure is measured.")] = 2.0,
) -> None:
    """Measure how fast this machine reads, decodes and loads: MB/s, samples/s by workers, tokens/s of a run."""
    from unimodel.observe.progress import say
    from unimodel.training.data_bench import bench

    for what, speed in bench(path, seconds):
        say(f"{what:45} {speed}")


@app.command("tokenize")
def data_tokenize(config: ConfigFile, overrides: Overrides = None) -> None:
    """Turn recorded shards into codes of the run's tokenizers."""
    from unimodel.config_file import load_config
    from unimodel.observe.progress import say
    from unimodel.run_folder import RunFolder
    from unimodel.tokenizers.finished import has_tokens

    settings = load_config(config, overrides)
    run = RunFolder(settings.folder)
    with run.locked():
        if has_tokens(settings, run):
            say(f"already tokenised: {run.tokens}")
            return
        from unimodel.tokenizers.tokenise import tokenise_dataset

        tokenise_dataset(settings, run)
    say(f"tokenised {run.tokens}")
