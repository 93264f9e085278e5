"""A data set on the Hugging Face Hub is read where it is: the same bytes as local ones, also when requests fail.

Run: pytest tests/data/test_hub.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_shards import write_toy_shards

HELPERS = Path(__file__).parents[1] / "helpers"
ADDRESS = "hf://datasets/nobody/toys"
FAILURE_SHARE = 0.1

READ_ALL = """
import json, sys, zlib
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.storage import as_folder
reader = ShardReader(as_folder(sys.argv[1]))
reader.read_ahead(range(len(reader)))
print(json.dumps([[key, {name: zlib.crc32(value) for name, value in fields.items()}]
                  for key, fields in map(reader.read, range(len(reader)))]))
"""


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a hub with one data set."""
    folder = tmp_path_factory.mktemp("hub")
    write_toy_shards(folder / "nobody" / "toys" / "train", filler=3000)
    return folder


@pytest.fixture(scope="module")
def hub(toys: Path) -> Iterator[str]:
    command = [sys.executable, str(HELPERS / "hub_server.py"), str(toys), str(FAILURE_SHARE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdin is not None
        yield server.stdout.readline().strip()
        server.stdin.close()


def run(hub: str, cache: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: the hub's library reads where the hub is once."""
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "UNIMODEL_CACHE": str(cache)}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False, timeout=240
    )


def test_the_hub_gives_the_samples_of_the_disk(toys: Path, hub: str, tmp_path: Path) -> None:
    here = run(hub, tmp_path, "-c", READ_ALL, str(toys / "nobody" / "toys" / "train"))
    there = run(hub, tmp_path, "-c", READ_ALL, f"{ADDRESS}/train")
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout) == json.loads(here.stdout)


def test_verify_and_stats_of_a_data_set_on_the_hub(hub: str, tmp_path: Path) -> None:
    stats = run(hub, tmp_path, "-m", "unimodel", "data", "stats", ADDRESS)
    assert stats.returncode == 0, stats.stderr
    assert list(json.loads(stats.stdout)) == ["train"]
    verified = run(hub, tmp_path, "-m", "unimodel", "data", "verify", ADDRESS)
    assert verified.returncode == 0, verified.stderr


def test_what_is_not_on_the_hub_is_named(hub: str, tmp_path: Path) -> None:
    for address in ("hf://datasets/nobody/else", f"{ADDRESS}/nothing"):
        done = run(hub, tmp_path, "-m", "unimodel", "data", "stats", address)
        assert done.returncode == 1 and address in done.stderr and "Traceback" not in done.stderr, done.stderr
