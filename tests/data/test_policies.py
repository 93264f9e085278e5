"""Who plays: what each policy does, how several share a recording, and that anybody's policy can be handed in.

Run: pytest tests/data/test_policies.py
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_data import ENVIRONMENT, contents, played, small_recording

from data_pipelines.shards.reader import ShardReader
from data_pipelines.sources.episode import decode_episode
from data_pipelines.sources.play import Play, Policy
from data_pipelines.sources.policies import scripted_policy
from data_pipelines.sources.recording import record_dataset

MIXED = [
    {"kind": "bot", "share": 1.0},
    {"kind": "sticky", "share": 2.0, "repeat_fraction": 1.0, "name": "stubborn"},
    {"kind": "random", "share": 1.0},
]


class Brightest:
    """A stand-in for a model: it reads all frames of a batch at once, and acts by how bright the last ones are."""

    plays_at_once = 3
    seen: Counter[int] = Counter()

    def __call__(self, plays: Sequence[Play]) -> list[int]:
        self.seen[len(plays)] += 1
        frames = np.stack([play.moments[-1].frame for play in plays])
        return (frames.sum(axis=(1, 2, 3)) % plays[0].world.num_actions).tolist()


def any_policy(settings: Mapping[str, Any]) -> Policy:
    return Brightest() if settings["kind"] == "brightest" else scripted_policy(settings)


def test_the_more_an_action_is_kept_the_fewer_changes() -> None:
    def changes(**policy: object) -> float:
        episodes = played(ENVIRONMENT, *range(20), max_steps=20, **policy)
        return float(np.mean(np.concatenate([np.diff(episode.actions) != 0 for episode in episodes])))

    assert changes(kind="sticky", repeat_fraction=1.0) == 0.0
    assert changes(kind="sticky", repeat_fraction=0.5) == pytest.approx(0.5 * 6 / 7, abs=0.1)
    assert changes(kind="random") == pytest.approx(6 / 7, abs=0.1)


def test_effective_actions_change_the_picture_and_leave_no_trace_of_what_was_tried() -> None:
    def changed(**policy: object) -> float:
        episodes = played("MiniGrid-DoorKey-5x5-v0", *range(4), max_steps=40, image_size=40, **policy)
        frames = [episode.frames for episode in episodes]
        return float(np.mean(np.concatenate([(f[1:] != f[:-1]).any(axis=(1, 2, 3)) for f in frames])))

    assert changed(kind="effective", idle_fraction=0.0) == 1.0
    assert changed(kind="random") < changed(kind="effective", idle_fraction=0.5) < 0.9


def test_policies_share_a_recording_by_key(tmp_path: Path) -> None:
    recording = small_recording(policies=MIXED, train_episodes=60, episodes_per_shard=20)
    record_dataset(tmp_path / "one", recording, processes=1)
    record_dataset(tmp_path / "two", recording, processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    reader = ShardReader(tmp_path / "one/train")
    episodes = [decode_episode(*reader.read(number)) for number in range(len(reader))]
    played_by = Counter(episode.policy for episode in episodes)
    assert set(played_by) == {"bot", "stubborn", "random"} and 20 <= played_by["stubborn"] <= 40
    for episode in episodes:
        assert (len(set(episode.actions.tolist())) == 1) == (episode.policy == "stubborn") or episode.num_steps < 4


def test_a_policy_of_the_callers_own_plays_batches_whatever_the_processes(tmp_path: Path) -> None:
    policies = [{"kind": "brightest"}, {"kind": "bot", "share": 0.5}]
    recording = small_recording(policies=policies)
    Brightest.seen.clear()
    record_dataset(tmp_path / "one", recording, processes=1, load_policy=any_policy)
    assert max(Brightest.seen) > 1, "episodes were played side by side"
    record_dataset(tmp_path / "two", recording, processes=2, load_policy=any_policy)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    reader = ShardReader(tmp_path / "one/train")
    episodes = [decode_episode(*reader.read(number)) for number in range(len(reader))]
    assert {episode.policy for episode in episodes} == {"brightest", "bot"}
    for episode in (episode for episode in episodes if episode.policy == "brightest"):
        assert (episode.frames[:-1].sum(axis=(1, 2, 3)) % 7 == episode.actions).all()


@pytest.mark.parametrize(
    ("environment", "policies", "said"),
    [
        ("MiniGrid-Empty-8x8-v0", [{"kind": "bot"}], "MiniGrid-Empty-8x8-v0 has no scripted bot"),
        ("CartPole-v1", [{"kind": "random"}, {"kind": "bot"}], "CartPole-v1 has no scripted bot"),
        ("CartPole-v1", [{"kind": "effective"}], "effective tries actions .* CartPole-v1 cannot be set back"),
        (ENVIRONMENT, [{"kind": "expert"}], "policy .*'expert'.*'random', 'sticky', 'effective', 'bot'"),
        (ENVIRONMENT, [{"kind": "sticky", "repeat_fraction": 2.0}], "less than or equal to 1"),
        (ENVIRONMENT, [], "policies is empty"),
    ],
)
def test_policies_that_cannot_play_are_refused_before_anything_is_written(
    tmp_path: Path, environment: str, policies: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        record_dataset(tmp_path / "new", small_recording(environment=environment, policies=policies))
    assert not (tmp_path / "new").exists()
