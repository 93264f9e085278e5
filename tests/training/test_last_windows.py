"""The last windows of episodes may come more often than by chance.

Run: pytest tests/training/test_last_windows.py
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_sequences import BUILDER, VOCABULARY, toy_episode

from data_pipelines.shards.index import Manifest, write_manifest
from data_pipelines.shards.writer import write_shard
from data_pipelines.stream.order import Draw
from data_pipelines.stream.plan import Placed
from unimodel.batch import CorruptedSequence
from unimodel.config import EPISODES, StageConfig
from unimodel.tokenizers.tokenised_shards import encode_tokenised, tokenised_lengths
from unimodel.training.data import StageData
from unimodel.vocabulary import Modality

STEPS = 11


def stage(**entry: object) -> StageConfig:
    mixture = [{"sequence": "interaction", "objective": "frames", "frames": 4, **entry}]
    return StageConfig.model_validate_json(
        json.dumps(
            {"number": 3, "steps": 1, "mixture": mixture, "objectives": {"frames": {"kind": "diffusion_forcing"}}}
        )
    )


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    over = np.arange(STEPS) == STEPS - 1
    episodes = [replace(toy_episode(n, steps=STEPS, side=2, key=f"episode-{n}"), done=over) for n in range(200)]
    rows = [(episode.key, encode_tokenised(episode), tokenised_lengths(episode)) for episode in episodes]
    write_manifest(folder, Manifest((write_shard(folder / "tokens.tar", rows),), {"kind": "tokenised episodes"}))
    return folder


def ends_seen(tokens: Path, last_fraction: float) -> float:
    """How often the end of an episode is in a window, hidden or not."""
    data = StageData({EPISODES: tokens}, BUILDER, "stage", stage(last_fraction=last_fraction), seed=3)
    over = VOCABULARY.range_of(Modality.DONE)[1]
    seen = []
    for number in range(200):
        draw = Draw(0, 0, number)
        built = data.build(Placed(draw, data.measure(draw)))
        assert isinstance(built, CorruptedSequence)
        seen.append(over in np.where(built.target >= 0, built.target, built.input_ids))
    return float(np.mean(seen))


def test_a_share_of_the_windows_are_the_last_of_their_episode(tokens: Path) -> None:
    by_chance = 1 / (STEPS + 1 - 4 + 1)
    for share in (0.0, 0.3, 1.0):
        expected = share + (1 - share) * by_chance
        assert ends_seen(tokens, share) == pytest.approx(expected, abs=0.08)


def test_only_windows_of_frames_can_be_last() -> None:
    with pytest.raises(ValueError, match="last_fraction is for windows of frames"):
        stage(sequence="text_to_image", last_fraction=0.5)
