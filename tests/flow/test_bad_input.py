"""A user's mistakes on the real command line: one clear message, a non-zero status, no traceback, nothing lost.

Run: pytest tests/flow/test_bad_input.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from tiny_run import TinyRun, command, tiny_run, train_here

from unimodel.config import EPISODES
from unimodel.config_file import load_config
from unimodel.run_folder import RunFolder, read_json_lines
from unimodel.tokenizers.finished import has_tokens


def refused(*arguments: str, said: tuple[str, ...], status: int = 2) -> str:
    """Runs `unimodel ...` and checks how it fails; returns what it said."""
    result = command(*arguments)
    assert result.returncode == status, (result.returncode, result.stdout, result.stderr)
    assert "Traceback" not in result.stderr + result.stdout
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    for part in said:
        assert part in result.stderr, (part, result.stderr)
    return result.stderr


def files_of(run: TinyRun) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.run.path.rglob("[!.]*") if path.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> TinyRun:
    return tiny_run(tmp_path / "run", stages=("unified",))


def test_unknown_key(run: TinyRun) -> None:
    refused("train", str(run.config_file), "--set", "engine.zerro=1", said=("engine.zerro", "did you mean 'zero'?"))
    assert not run.run.metrics.exists()


def test_wrong_value(run: TinyRun) -> None:
    refused(
        "train",
        str(run.config_file),
        "--set",
        "engine.zero=7",
        said=("engine.zero", "got 7", "less than or equal to 3"),
    )


def test_missing_config_file(tmp_path: Path) -> None:
    refused("train", str(tmp_path / "none.yaml"), said=(str(tmp_path / "none.yaml"), "does not exist"), status=1)


def test_missing_shard_folder(run: TinyRun, tmp_path: Path) -> None:
    shutil.rmtree(run.run.tokens)
    refused("train", str(run.config_file), said=(str(run.run.tokens_of(EPISODES, "train")),), status=1)
    refused("data", "verify", str(tmp_path / "none"), said=(str(tmp_path / "none"),), status=1)


def test_missing_tokenizers_name_the_command(run: TinyRun) -> None:
    shutil.rmtree(run.run.tokenizers)
    refused("train", str(run.config_file), said=("unimodel tokenizer train",), status=1)


def test_truncated_tar(run: TinyRun) -> None:
    shard = next((run.run.tokens_of(EPISODES, "train")).glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:3000])
    said = ("more than data.max_bad_samples (2)", str(run.run.quarantine), "run the same command again")
    refused("train", str(run.config_file), "--set", "data.max_bad_samples=2", said=said)
    assert not run.run.metrics.exists()
    listed = read_json_lines(run.run.quarantine)
    assert {line["shard"] for line in listed} == {str(shard)}
    assert all("truncated" in line["reason"] and line["key"] and line["offset"] > 0 for line in listed)


def test_samples_that_cannot_be_read_are_left_out_and_listed(run: TinyRun) -> None:
    shard = next((run.run.tokens_of(EPISODES, "train")).glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-8000])
    train_here(run.config)
    lost = {line["key"] for line in read_json_lines(run.run.quarantine)}
    assert 0 < len(lost) < 12 and len(run.metrics()) == run.total_steps


def test_recorded_picture_that_does_not_decode(run: TinyRun, tmp_path: Path) -> None:
    """One flipped byte in the recorded shard: tokenising names shard and sample."""
    data = shutil.copytree(run.config.data.folder, tmp_path / "data")
    shard = sorted((data / "train").glob("*.tar"))[0]
    content = bytearray(shard.read_bytes())
    content[content.index(b"\x89PNG") + 60] ^= 4
    shard.write_bytes(content)
    shutil.rmtree(run.run.tokens)
    error = refused(
        "data", "tokenize", str(run.config_file), "--set", f"data.folder={data}", said=(shard.name, "episode-")
    )
    assert "data verify" in error, "it says what to do"


def test_caption_longer_than_a_row(run: TinyRun) -> None:
    settings = "stages.unified.batch.row_tokens=24"
    error = refused(
        "train", str(run.config_file), "--set", settings, said=("does not fit a row of 24", "batch.row_tokens")
    )
    longest = int(error.split("at least ")[1].split(",")[0])
    train_here(load_config(run.config_file, [f"stages.unified.batch.row_tokens={longest}", "stages.unified.steps=1"]))


def test_checkpoint_of_another_config(run: TinyRun) -> None:
    train_here(run.config)
    before = files_of(run)
    refused("train", str(run.config_file), "--set", "seed=99", said=("seed (was 11, is 99)", "another `name`"))
    assert files_of(run) == before


def test_run_that_is_in_use(run: TinyRun) -> None:
    with run.run.locked():
        refused("train", str(run.config_file), said=(str(run.run.path), "in use by another process"))


def test_using_a_run_that_is_not_there(tmp_path: Path) -> None:
    refused(
        "generate", str(tmp_path / "none"), "--actions", "left", said=("not a run folder", "unimodel train"), status=1
    )


def test_tokens_of_other_tokenizers_are_made_again(run: TinyRun, tmp_path: Path) -> None:
    """Not an error: stale codes are never trained on."""
    assert has_tokens(run.config, run.run)
    values = yaml.safe_load(run.config_file.read_text())
    values["tokenizers"]["image"]["steps"] = 6
    values["runs_folder"] = str(tmp_path / "other")
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(values, sort_keys=False))
    shutil.copytree(run.run.tokens, tmp_path / "other" / "tiny" / "tokens")
    assert command("tokenizer", "train", str(changed)).returncode == 0
    other = load_config(changed)
    assert not has_tokens(other, RunFolder(other.folder))
    assert "already" not in command("data", "tokenize", str(changed)).stdout
    assert has_tokens(other, RunFolder(other.folder))
