"""A window made shorter on purpose: some segments do not show their first frame, and nothing else changes.

Run: pytest tests/training/test_hidden_starts.py
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
from unimodel.config_memory import MemoryConfig
from unimodel.layout import CLEAN
from unimodel.tokenizers.tokenised_shards import encode_tokenised, tokenised_lengths
from unimodel.training.data import StageData
from unimodel.vocabulary import Modality

SIDE, SEGMENT_STEPS, SEGMENTS, TOKENS, EPISODES_KEPT = 2, 2, 4, 96, 50


def stage(hidden_start_fraction: float, kind: str = "recurrent") -> StageConfig:
    memory = {
        "segment_frames": SEGMENT_STEPS,
        "segment_tokens": TOKENS,
        "hidden_start_fraction": hidden_start_fraction,
        "mechanisms": [{"kind": kind}],
    }
    settings = {
        "number": 4,
        "steps": 1,
        "batch": {"rows": 1, "row_tokens": SEGMENTS * TOKENS},
        "mixture": [{"sequence": "interaction", "objective": "frames", "frames": SEGMENTS * SEGMENT_STEPS + 1}],
        "objectives": {"frames": {"kind": "teacher_forcing"}},
        "memory": memory,
    }
    return StageConfig.model_validate_json(json.dumps(settings))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    steps = SEGMENTS * SEGMENT_STEPS
    episodes = [replace(toy_episode(n, steps, SIDE), key=f"episode-{n}") for n in range(EPISODES_KEPT)]
    rows = [(episode.key, encode_tokenised(episode), tokenised_lengths(episode)) for episode in episodes]
    write_manifest(folder, Manifest((write_shard(folder / "tokens.tar", rows),), {"kind": "tokenised episodes"}))
    return folder


def built(tokens: Path, fraction: float) -> list[CorruptedSequence]:
    data = StageData({EPISODES: tokens}, BUILDER, "stage", stage(fraction), seed=3)
    made = [data.build(Placed(draw, data.measure(draw))) for draw in (Draw(0, 0, n) for n in range(EPISODES_KEPT))]
    assert all(isinstance(one, CorruptedSequence) for one in made)
    return made  # pyright: ignore[reportReturnType]


def hidden_places(one: CorruptedSequence) -> np.ndarray:
    """bool [length] codes of the clean stream that are hidden."""
    is_code = (one.stream == CLEAN) & (one.modality == int(Modality.IMAGE))
    return is_code & (one.input_ids == VOCABULARY.mask(Modality.IMAGE))


def test_so_many_segments_hide_their_first_frame_the_first_never_and_all_else_stays(tokens: Path) -> None:
    shown, half, always = (built(tokens, fraction) for fraction in (0.0, 0.5, 1.0))
    assert not any(hidden_places(one).any() for one in shown)
    for plain, one in zip(shown, always, strict=True):
        hidden = hidden_places(one)
        for number, segment in enumerate(np.split(hidden, SEGMENTS)):
            is_code = np.split((one.stream == CLEAN) & (one.modality == int(Modality.IMAGE)), SEGMENTS)[number]
            first = np.flatnonzero(is_code)[: SIDE * SIDE] if number else []
            assert np.flatnonzero(segment).tolist() == list(first)
        for field in ("modality", "stream", "block", "position_ids"):
            np.testing.assert_array_equal(getattr(one, field), getattr(plain, field))
        assert (one.target[hidden] < 0).all()
    starts = [segment.any() for one in half for segment in np.split(hidden_places(one), SEGMENTS)[1:]]
    # 150 segments; four standard deviations of a fair coin.
    assert np.mean(starts) == pytest.approx(0.5, abs=0.17)


@pytest.mark.parametrize("kind", ["window", "compressed", "episodic"])
def test_a_memory_that_keeps_frames_would_keep_them_hidden_and_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=f"'{kind}' would keep them hidden: it is for recurrent and fastweight"):
        stage(0.5, kind)
    assert isinstance(stage(0.0, kind).memory, MemoryConfig)
