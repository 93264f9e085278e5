"""What launchers would run: commands, batch scripts and manifests, and what they refuse.

Run: pytest tests/launch/test_launchers.py
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from tiny_run import command, tiny_run

from launch.ssh import read_hostfile


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_run(tmp_path_factory.mktemp("launch"), stages=("masked",)).config_file)


def launched(*arguments: str) -> str:
    done = command("launch", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*arguments: str) -> str:
    done = command("launch", *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_torchrun_prints_what_one_would_type(config: str) -> None:
    line = launched(
        "torchrun", config, "--nodes", "2", "--endpoint", "a:1", "--processes", "2", "--dry-run", "--set", "seed=3"
    )
    words = shlex.split(line)
    assert words[:5] == ["torchrun", "--nnodes=2", "--nproc-per-node=2", "--max-restarts=3", "--rdzv-backend=c10d"]
    assert words[5:9] == ["--rdzv-endpoint=a:1", "-m", "unimodel", "train"] and words[-3:] == [
        "--check",
        "--set",
        "seed=3",
    ]


def test_batches_must_divide_among_the_processes(config: str) -> None:
    message = refused("local", config, "--processes", "3", "--dry-run")
    assert "stages.masked.batch.rows (4) must be a multiple of ranks (3)" in message
    assert "need an --endpoint" in refused("torchrun", config, "--nodes", "2")


def test_ssh_starts_the_same_command_on_every_host(config: str, tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("one slots=2  # the first\n\ntwo slots=2\n")
    lines = launched("ssh", config, "--hostfile", str(hostfile), "--dry-run").splitlines()
    commands = [shlex.split(line) for line in lines]
    assert [words[-2] for words in commands] == ["one", "two"]
    assert commands[1][-1] == commands[0][-1].replace("--address one", "--address two")
    assert f"cd {Path.cwd()} && exec env" in commands[0][-1]
    assert "--nodes 2 --processes 2 --endpoint one:29400" in commands[0][-1] and "--follow-input" in commands[0][-1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one\n", "line 1: 'one' is not of the form"),
        ("one slots=two\n", "line 1"),
        ("one slots=1\none slots=1\n", "line 2: one is there twice"),
        ("one slots=1\ntwo slots=2\n", "different numbers of slots"),
        ("# nobody\n", "names no host"),
    ],
)
def test_wrong_hostfiles_are_refused_by_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_hostfile(tmp_path / "hosts")


def test_an_unreachable_host_is_named(config: str, tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("nowhere.invalid slots=1\n")
    message = refused("ssh", config, "--hostfile", str(hostfile))
    assert "not reachable by ssh without a password: nowhere.invalid" in message


def test_slurm_script_is_shell_and_says_what_was_asked(config: str) -> None:
    options = ["--nodes", "2", "--gpus", "0", "--processes", "2", "--time", "1:00:00", "--sbatch", "partition=long"]
    script = launched("slurm", config, *options, "--dry-run")
    for line in ("--nodes=2", "--time=1:00:00", "--partition=long", "--requeue", "--signal=B:USR1@180"):
        assert f"#SBATCH {line}\n" in script
    assert "gpus-per-node" not in script and '--endpoint "$head":29400' in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_slurm_refuses_what_sbatch_would_misread(config: str) -> None:
    assert "--time tomorrow" in refused("slurm", config, "--time", "tomorrow", "--gpus", "1", "--dry-run")
    assert "--sbatch x=1; rm" in refused("slurm", config, "--sbatch", "x=1; rm", "--gpus", "1", "--dry-run")


def test_kubernetes_manifest_has_a_pod_per_node(config: str) -> None:
    options = ["--image", "here/unimodel:1", "--claim", "runs", "--nodes", "2", "--gpus", "2"]
    service, job = yaml.safe_load_all(launched("kubernetes", config, *options))
    for resource in (service, job):
        kubernetes_validate.validate(resource, "1.30", strict=True)
    assert service["kind"] == "Service" and service["spec"]["clusterIP"] == "None"
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (2, 2, "Indexed")
    container = spec["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert container["command"][:5] == ["python3", "-m", "unimodel", "launch", "torchrun"]
    assert f"{job['metadata']['name']}-0.{service['metadata']['name']}:29400" in container["command"]
    assert "--claim Not A Claim" in refused("kubernetes", config, *options[:2], "--claim", "Not A Claim", "--gpus", "1")
