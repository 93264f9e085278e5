"""What lies in `runs/NAME/`, and the rules for writing there: one writer at a time, no half-written file."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimodel.config import RunConfig
from unimodel.config_file import dump_config, load_config
from unimodel.errors import RunError


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def tokenizers(self) -> Path:
        return self.path / "tokenizers"

    @property
    def text_tokenizer(self) -> Path:
        return self.tokenizers / "text"

    @property
    def image_tokenizer(self) -> Path:
        return self.tokenizers / "image"

    @property
    def tokens(self) -> Path:
        """Tokenised shards, in a folder per source and split."""
        return self.path / "tokens"

    def tokens_of(self, source: str, split: str) -> Path:
        """Tokenised shards of one split of one source."""
        return self.tokens / source / split

    @property
    def audio_tokenizer(self) -> Path:
        """Absent when the run has no sound."""
        return self.tokenizers / "audio"

    @property
    def latent_actions(self) -> Path:
        """Absent when the run infers none."""
        return self.tokenizers / "latent_action"

    @property
    def odometer(self) -> Path:
        """Absent when no stage recalls by pose."""
        return self.tokenizers / "odometer"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON line a step, a pure function of the config: equal, byte for byte, however often a run was killed."""
        return self.path / "metrics.jsonl"

    @property
    def timing(self) -> Path:
        """One JSON line a step with what depends on the machine: seconds and tokens per second."""
        return self.path / "timing.jsonl"

    @property
    def ranks(self) -> Path:
        """One JSON line every few steps: how long each rank takes by itself, and which one the others wait for."""
        return self.path / "ranks.jsonl"

    @property
    def profile(self) -> Path:
        """Traces and tables of torch's profiler."""
        return self.path / "profile"

    @property
    def starts(self) -> Path:
        """One JSON line per start of the training: when, from which step, on how many ranks."""
        return self.path / "starts.jsonl"

    @property
    def quarantine(self) -> Path:
        """One JSON line per sample that was left out of a step, with its shard, key, byte and what is wrong with it."""
        return self.path / "quarantine.jsonl"

    @property
    def skipped(self) -> Path:
        """One JSON line per step that was skipped, with its samples and why. Lines stay when the run goes back."""
        return self.path / "skipped.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def stacks(self) -> Path:
        """What hung ranks were doing, a file per rank."""
        return self.path / "stacks"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def scorecard(self) -> Path:
        """What `unimodel eval --stage world` finds (docs/scorecard.md)."""
        return self.path / "scorecard.json"

    @property
    def samples(self) -> Path:
        """Pictures made by `unimodel generate` and `unimodel eval`."""
        return self.path / "samples"

    @property
    def worlds(self) -> Path:
        """Worlds that outlive the processes in which they are lived, a folder each."""
        return self.path / "worlds"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def config(self) -> RunConfig:
        """The resolved config of the run. Raises FileNotFoundError when `path` is no run folder."""
        if not self.config_file.exists():
            raise FileNotFoundError(
                f"{self.path} is not a run folder: it has no config.yaml. Make one with `unimodel train CONFIG`"
            )
        return load_config(self.config_file)

    def store_config(self, config: RunConfig) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config_file, dump_config(config).encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run for one writer. Raises RunError when another process already does."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{self.path} is in use by another process: wait for it, stop it, or choose another `name`"
                ) from None
            yield


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside, syncs and renames: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Parsed lines; a torn last line (a kill in mid-write) is dropped."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def append_json_line(path: Path, values: dict[str, Any]) -> None:
    """One JSON line at the end of `path`. Raises OSError naming the file when the disk is full."""
    try:
        with path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(values) + "\n")
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written ({error.strerror})") from error


def truncate_json_lines(path: Path, last_step: int) -> None:
    """Drops lines of steps after `last_step`: they are computed again after a restart, with the same result."""
    kept = [line for line in read_json_lines(path) if line["step"] <= last_step]
    if path.exists():
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
