"""`unimodel launch`: the same run on one machine, on hosts over ssh, under Slurm, on Kubernetes, under torchrun."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from launch.job import DEFAULT_PORT, Job, devices_here, shell_line
from unimodel.cli_data import ConfigFile, Overrides

app = typer.Typer(
    no_args_is_help=True, help="Start training on one machine or many; it restarts and resumes by itself."
)

Nodes = Annotated[int, typer.Option(min=1, help="Machines.")]
Processes = Annotated[int | None, typer.Option(min=1, help="Per node; one per GPU otherwise, or one on a CPU.")]
MaxRestarts = Annotated[int, typer.Option(min=0, help="How often all processes are started again after a failure.")]
StopSeconds = Annotated[int, typer.Option(min=1, help="How long a run may take to save when it is asked to stop.")]
Check = Annotated[bool, typer.Option(help="Look at every node first: devices, clock, disk, folder, bandwidth.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run, and run nothing.")]
Python = Annotated[str, typer.Option(help="Python on the hosts.")]


def _job(
    config: Path,
    overrides: list[str] | None,
    nodes: int,
    processes: int,
    restarts: tuple[int, int, bool],
) -> Job:
    """Raises ValueError for a config that is wrong, or whose batches do not divide among the processes."""
    from unimodel.config_file import load_config

    for name, stage in load_config(config, overrides).ordered_stages:
        try:
            stage.batch.micro_rows(nodes * processes)
        except ValueError as error:
            raise ValueError(f"stages.{name}.{error}") from None
    return Job(config, tuple(overrides or ()), nodes, processes, *restarts)


@app.command("local")
def local(
    config: ConfigFile,
    overrides: Overrides = None,
    processes: Processes = None,
    max_restarts: MaxRestarts = 3,
    stop_seconds: StopSeconds = 120,
    check: Check = False,
    dry_run: DryRun = False,
) -> None:
    """Train on this machine."""
    job = _job(config, overrides, 1, processes or devices_here(), (max_restarts, stop_seconds, check))
    if dry_run:
        typer.echo(shell_line(job.train_command))
        typer.echo(f"# as {job.processes} processes of one agent, started again up to {max_restarts} times")
        return
    from launch.agent import run_node

    raise typer.Exit(run_node(job, None))


@app.command("torchrun")
def torchrun(  # noqa: PLR0913
    config: ConfigFile,
    overrides: Overrides = None,
    nodes: Nodes = 1,
    endpoint: Annotated[str | None, typer.Option(help=f"HOST:PORT where the nodes meet; port {DEFAULT_PORT}.")] = None,
    address: Annotated[str | None, typer.Option(help="How others reach this node; its host name otherwise.")] = None,
    processes: Processes = None,
    max_restarts: MaxRestarts = 3,
    stop_seconds: StopSeconds = 120,
    check: Check = True,
    follow_input: Annotated[bool, typer.Option(help="Stop and save when standard input ends.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Be one node of a job: start this on every machine with the same options (torch's elastic agent, as torchrun)."""
    if nodes > 1 and endpoint is None:
        raise ValueError("several nodes need an --endpoint HOST:PORT to meet at: the first node's name, any free port")
    job = _job(config, overrides, nodes, processes or devices_here(), (max_restarts, stop_seconds, check))
    if dry_run:
        options = [f"--nnodes={nodes}", f"--nproc-per-node={job.processes}", f"--max-restarts={max_restarts}"]
        options += [f"--rdzv-backend=c10d --rdzv-endpoint={endpoint}"] if endpoint else ["--standalone"]
        typer.echo(f"torchrun {' '.join(options)} {shell_line(job.train_command[1:])}")
        return
    from launch.agent import run_node

    raise typer.Exit(run_node(job, endpoint, address, follow_input=follow_input))


@app.command("ssh")
def ssh(  # noqa: PLR0913
    config: ConfigFile,
    hostfile: Annotated[Path, typer.Option(help="`NAME slots=N` lines, as DeepSpeed has them.")],
    overrides: Overrides = None,
    endpoint: Annotated[
        str | None, typer.Option(help="HOST:PORT where the nodes meet; the first host otherwise.")
    ] = None,
    max_restarts: MaxRestarts = 3,
    stop_seconds: StopSeconds = 120,
    check: Check = True,
    python: Python = sys.executable,
    dry_run: DryRun = False,
) -> None:
    """Train on the hosts of a file. They must see this folder under the same path."""
    from launch.ssh import host_commands, launch_ssh, read_hostfile

    hosts = read_hostfile(hostfile)
    job = _job(config, overrides, len(hosts), hosts[0].slots, (max_restarts, stop_seconds, check))
    if dry_run:
        for command in host_commands(job, hosts, endpoint, python):
            typer.echo(shell_line(command))
        return
    raise typer.Exit(launch_ssh(job, hosts, endpoint, python))


@app.command("slurm")
def slurm(  # noqa: PLR0913
    config: ConfigFile,
    overrides: Overrides = None,
    nodes: Nodes = 1,
    gpus: Annotated[int, typer.Option(min=0, help="Per node; 0 for CPUs.")] = 8,
    processes: Annotated[int | None, typer.Option(min=1, help="Per node; one per GPU otherwise.")] = None,
    cpus: Annotated[int, typer.Option(min=1, help="Per node.")] = 8,
    time: Annotated[str, typer.Option(help="Longest allocation; the job goes on in the next.")] = "24:00:00",
    sbatch: Annotated[list[str] | None, typer.Option(help="More for sbatch: partition=long. May be repeated.")] = None,
    max_restarts: MaxRestarts = 3,
    stop_seconds: StopSeconds = 120,
    check: Check = True,
    dry_run: DryRun = False,
) -> None:
    """Submit a batch job that saves and queues itself again when its time is up or it is preempted."""
    from launch.slurm import SlurmSettings, slurm_script, submit
    from unimodel.config_file import load_config
    from unimodel.run_folder import RunFolder

    settings = load_config(config, overrides)
    job = _job(config, overrides, nodes, processes or gpus or 1, (max_restarts, stop_seconds, check))
    run = RunFolder(settings.folder)
    script = slurm_script(job, settings.name, run, SlurmSettings(time, gpus, cpus, tuple(sbatch or ())))
    typer.echo(script if dry_run else submit(script, run), nl=not dry_run)


@app.command("kubernetes")
def kubernetes(  # noqa: PLR0913
    config: ConfigFile,
    image: Annotated[str, typer.Option(help="Container image with the project in it (see Dockerfile).")],
    claim: Annotated[str, typer.Option(help="PersistentVolumeClaim that all pods can write.")],
    overrides: Overrides = None,
    nodes: Nodes = 1,
    gpus: Annotated[int, typer.Option(min=0, help="Per node; 0 for CPUs.")] = 8,
    processes: Annotated[int | None, typer.Option(min=1, help="Per node; one per GPU otherwise.")] = None,
    cpus: Annotated[str, typer.Option(help="Per node.")] = "32",
    memory: Annotated[str, typer.Option(help="Per node.")] = "256Gi",
    mount: Annotated[str, typer.Option(help="Where the claim lies in a pod.")] = "/workspace/runs",
    folder: Annotated[str, typer.Option(help="Where the project lies in the image.")] = "/workspace",
    max_restarts: MaxRestarts = 3,
    stop_seconds: StopSeconds = 120,
    check: Check = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Has no effect: the manifest is printed either way.")
    ] = False,
) -> None:
    """Print the manifest of an indexed Job: `unimodel launch kubernetes ... | kubectl apply -f -`."""
    from launch.kubernetes import KubernetesSettings, kubernetes_manifest
    from unimodel.config_file import load_config

    del dry_run
    job = _job(config, overrides, nodes, processes or gpus or 1, (max_restarts, stop_seconds, check))
    settings = KubernetesSettings(image, claim, mount, folder, gpus, cpus, memory)
    typer.echo(kubernetes_manifest(job, load_config(config, overrides).name, settings), nl=False)
