"""Tokenising that was killed goes on with the shards that are missing.

Run: pytest tests/tokenizers/test_tokenise.py
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_run import TinyRun, environment, tiny_run, wait_until

from data_pipelines.shards.reader import ShardReader
from data_pipelines.sources.episode import decode_episode
from unimodel.tokenizers import tokenise
from unimodel.tokenizers.finished import has_tokens
from unimodel.tokenizers.tokenised_shards import decode_tokenised

SLOWLY = """
import sys, time
from pathlib import Path
from unimodel.config_file import load_config
from unimodel.run_folder import RunFolder
from unimodel.tokenizers import tokenise

tokenise.SAMPLES_PER_SHARD = 2
encode = tokenise.tokenise_sample
tokenise.tokenise_sample = lambda *given: (time.sleep(0.1), encode(*given))[1]
config = load_config(Path(sys.argv[1]), [])
tokenise.tokenise_dataset(config, RunFolder(config.folder))
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyRun:
    """A run without tokens: 12, 2 and 3 episodes in 6, 1 and 2 shards."""
    monkeypatch.setattr(tokenise, "SAMPLES_PER_SHARD", 2)
    run = tiny_run(tmp_path, stages=("unified",))
    shutil.rmtree(run.run.tokens)
    return run


def contents(run: TinyRun) -> dict[str, bytes]:
    return {str(p.relative_to(run.run.tokens)): p.read_bytes() for p in run.run.tokens.rglob("*") if p.is_file()}


def test_a_killed_command_keeps_what_it_finished(tiny: TinyRun) -> None:
    tokenise.tokenise_dataset(tiny.config, tiny.run)
    whole = contents(tiny)
    assert len([name for name in whole if name.endswith(".tar")]) == 9
    shutil.rmtree(tiny.run.tokens)

    train = tiny.run.tokens_of("episodes", "train")
    command = [sys.executable, "-c", SLOWLY, str(tiny.config_file)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one:
        wait_until(one, lambda: len(list(train.glob(".*.done"))) >= 2)
        one.kill()
    assert one.returncode == -signal.SIGKILL and not has_tokens(tiny.config, tiny.run)
    finished = {path.name.strip(".").removesuffix(".done") for path in train.glob(".*.done")}
    times = {name: (train / name).stat().st_mtime_ns for name in finished}
    assert 2 <= len(finished) < 6

    tokenise.tokenise_dataset(tiny.config, tiny.run)
    assert contents(tiny) == whole and has_tokens(tiny.config, tiny.run)
    assert {name: (train / name).stat().st_mtime_ns for name in finished} == times, "they were not made again"


def test_poses_reach_the_tokens(tiny: TinyRun) -> None:
    tokenise.tokenise_dataset(tiny.config, tiny.run)
    recorded = ShardReader(f"{tiny.config.data.folder}/train")
    tokens = ShardReader(tiny.run.tokens_of("episodes", "train"))
    for number in range(len(tokens)):
        episode = decode_episode(*recorded.read(number))
        poses = decode_tokenised(*tokens.read(number)).poses
        assert poses.dtype == np.float32 and poses.shape == (episode.num_steps + 1, 3)
        assert np.array_equal(poses, episode.poses)


def test_shards_of_other_tokenizers_or_with_other_bytes_are_made_again(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = tiny.run.tokens_of("episodes", "train")
    encode, made = tokenise.tokenise_sample, []

    def counted(*given: object) -> object:
        if len(made) == stop_at:
            raise KeyboardInterrupt
        made.append(given)
        return encode(*given)

    monkeypatch.setattr(tokenise, "tokenise_sample", counted)
    stop_at = 10  # in the middle of a shard, after 3 + 6 episodes in five whole ones
    with pytest.raises(KeyboardInterrupt):
        tokenise.tokenise_dataset(tiny.config, tiny.run)
    shard = train / "tokens-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    stop_at = -1
    made.clear()
    tokenise.tokenise_dataset(tiny.config, tiny.run)
    assert len(made) == 17 - 9 + 2, "all but what was finished, and the damaged shard"
    assert len(ShardReader(train)) == 12

    shutil.rmtree(tiny.run.tokens)
    stop_at = 10
    made.clear()
    with pytest.raises(KeyboardInterrupt):
        tokenise.tokenise_dataset(tiny.config, tiny.run)
    with (tiny.run.text_tokenizer / "tokenizer.json").open("a") as file:
        file.write("\n")
    stop_at = -1
    made.clear()
    tokenise.tokenise_dataset(tiny.config, tiny.run)
    assert len(made) == 17, "their codes are another tokenizer's, as far as its bytes tell"
