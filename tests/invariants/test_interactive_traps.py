"""Traps that released world models fell into, each with a test that it would not pass.

On recorded episodes, through shards, mixture, objectives and packing: what is looked at is what a training step reads.
That no window is read again for every pass is tested with the cached step (tests/world/test_worlds.py).

Run: pytest tests/invariants/test_interactive_traps.py
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.storage import join, local_folder
from data_pipelines.sources.episode import Episode
from data_pipelines.sources.families import branch_frames
from data_pipelines.sources.recording import Recording, record_dataset
from data_pipelines.stream.plan import StreamState
from unimodel.batch import CorruptedSequence, PackedBatch, pack
from unimodel.config import EPISODES, RunConfig, StageConfig
from unimodel.config_file import load_config, settings_of, validate
from unimodel.layout import CLEAN, NO_TARGET
from unimodel.objectives.loss import normalisers
from unimodel.run_folder import RunFolder
from unimodel.tokenizers.action import reward_codes
from unimodel.tokenizers.bundle import TokenizerBundle
from unimodel.tokenizers.prepare import load_run_bundle, read_episodes, train_tokenizers
from unimodel.tokenizers.tokenise import tokenise_dataset
from unimodel.training.data import StageData
from unimodel.vocabulary import Modality

STAGE_3 = Path(__file__).parents[2] / "configs/stage3_interactive.yaml"
TEACHING = settings_of(load_config(STAGE_3).stages["interactive"].objectives["dynamics"])
"""As shipped."""
FORCING = {
    "kind": "diffusion_forcing",
    "clean_fraction": 0.5,
    "full_fraction": 0.25,
    "context_noise_fraction": 0.1,
    "changed_weight": 32.0,
}
OBJECTIVES: dict[str, Any] = {
    "forcing": FORCING,
    "forcing without noise": FORCING | {"context_noise_fraction": 0.0},
    "teaching": TEACHING,
    "teaching without noise": {"kind": "teacher_forcing", "context_noise_fraction": 0.0},
    "policy": {"kind": "policy"},
}
ALIGNED: dict[str, dict[str, Any]] = {
    "forcing": {"objective": "forcing without noise", "agent": "policy"},
    "forcing with a sink": {"objective": "forcing without noise", "sink": True},
    "teaching": {"objective": "teaching without noise", "agent": "policy"},
    "teaching with a sink": {"objective": "teaching without noise", "sink": True},
    "policy": {"objective": "policy", "sink": True},
}
DYNAMICS: dict[str, dict[str, Any]] = {
    "forcing": {"objective": "forcing"},
    "forcing with an agent": {"objective": "forcing", "agent": "policy", "sink": True},
    "teaching": {"objective": "teaching"},
    "teaching with an agent": {"objective": "teaching", "agent": "policy", "sink": True},
}
FRAMES, ROW_TOKENS, WINDOWS = 4, 400, 300


@dataclass(frozen=True)
class Recorded:
    """Episodes of a bot that errs, their shards of codes, and what an environment would say."""

    config: RunConfig
    run: RunFolder
    bundle: TokenizerBundle
    episodes: dict[str, Episode]
    branched: dict[tuple[str, int], list[list[int]]]

    def coded(self, pictures: np.ndarray) -> list[list[int]]:
        """Codes of every picture."""
        return self.bundle.image.encode(pictures).reshape(len(pictures), -1).tolist()

    def branches(self, key: str, at: int) -> list[list[int]]:
        """Codes of the frame that every action would lead to from frame `at` of an episode, as its environment says."""
        if (key, at) not in self.branched:
            episode, done = self.episodes[key], self.episodes[key].actions[:at].tolist()
            frames = branch_frames(episode.environment, episode.seed, done, 32)
            self.branched[key, at] = self.coded(frames)
        return self.branched[key, at]

    def stage(self, entry: dict[str, Any]) -> StageConfig:
        return StageConfig.model_validate(
            {
                "number": 3,
                "steps": 10_000,
                "batch": {"rows": 1, "row_tokens": ROW_TOKENS},
                "mixture": [{"sequence": "interaction", "frames": FRAMES, **entry}],
                "objectives": OBJECTIVES,
            },
            strict=False,
        )

    def rows(self, entry: dict[str, Any]) -> Iterator[tuple[list[str], list[CorruptedSequence]]]:
        """Rows as training packs them: the keys of their samples, and what was made of each."""
        tokens = self.run.tokens_of(EPISODES, "train")
        data = StageData({EPISODES: tokens}, self.bundle.builder, "interactive", self.stage(entry), seed=5)
        plan, reader = data.plan(StreamState()), ShardReader(tokens)
        while True:
            (row,) = plan.take(1)
            built = [data.build(placed) for placed in row]
            sequences = [sequence for sequence in built if isinstance(sequence, CorruptedSequence)]
            assert len(sequences) == len(built), built
            yield [reader.key(placed.draw.sample) for placed in row], sequences

    def windows(self, entry: dict[str, Any], count: int = WINDOWS) -> list[CorruptedSequence]:
        """Of all lengths up to FRAMES."""
        found: list[CorruptedSequence] = []
        for _, sequences in self.rows(entry):
            found += sequences
            if len(found) >= count:
                return found
        raise AssertionError("rows are endless")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("recorded")
    recording = {
        "train_episodes": 24,
        "validation_episodes": 1,
        "test_episodes": 1,
        "max_steps": 14,
        "policies": [{"kind": "bot", "random_action_fraction": 0.3}],
        "image_size": 32,
        "episodes_per_shard": 12,
    }
    values = {
        "name": "traps",
        "runs_folder": str(folder / "runs"),
        "data": {"folder": str(folder / "data"), "recording": recording},
        "tokenizers": {
            "text": {"vocabulary_size": 300},
            "image": {"patch_pixels": 8, "levels": [4, 4, 3], "width": 16, "steps": 60, "batch_frames": 8},
        },
        "stages": {
            "any": {
                "number": 3,
                "steps": 1,
                "mixture": [{"sequence": "interaction", "objective": "forcing"}],
                "objectives": OBJECTIVES,
            }
        },
    }
    config = validate(values, "traps")
    run = RunFolder(config.folder)
    played = Recording(seed=config.seed, **settings_of(config.data.recording))
    record_dataset(local_folder(config.data.folder), played, processes=1)
    train_tokenizers(config, run)
    tokenise_dataset(config, run)
    episodes = {episode.key: episode for episode in read_episodes(join(config.data.folder, "train"), 24)}
    return Recorded(config, run, load_run_bundle(run), episodes, {})


@dataclass(frozen=True)
class Moment:
    """What a row says of one moment: codes of its picture, and of what stands beside it (-1 where nothing does)."""

    picture: list[int]
    action: int
    reward: int
    done: int
    next_action: int


def read_document(recorded: Recorded, batch: PackedBatch, document: int) -> list[Moment]:
    """A document of a packed row token by token: the answer where something is asked, else what is shown. Frames are
    those of the clean stream; a sink, which no action led to either, is left out."""
    vocabulary, here = recorded.bundle.vocabulary, batch.document[0] == document
    ids, target, stream, kinds = (
        getattr(batch, name)[0][here].numpy() for name in ("input_ids", "target", "stream", "modality")
    )
    said, found, action, before = np.where(target == NO_TARGET, ids, target), [], -1, Modality.SPECIAL
    for token, kind in zip(said[stream == CLEAN].tolist(), kinds[stream == CLEAN].tolist(), strict=True):
        code = token - vocabulary.range_of(Modality(kind)).start
        if kind == Modality.ACTION:
            action = code
        elif kind == Modality.IMAGE:
            if before != Modality.IMAGE:
                found.append({"picture": [], "action": action, "reward": -1, "done": -1, "next_action": -1})
                action = -1
            found[-1]["picture"].append(code)
        elif kind in (Modality.REWARD, Modality.DONE):
            found[-1][Modality(kind).label] = code
        before = kind
    found = found[1:] if len(found) > 1 and found[1]["action"] == -1 else found
    answers = target[(stream != CLEAN) & (ids == vocabulary.agent)]
    assert len(answers) in (0, len(found))
    for moment, answer in zip(found, answers.tolist(), strict=False):
        moment["next_action"] = -1 if answer == NO_TARGET else answer - vocabulary.range_of(Modality.ACTION).start
    return [Moment(**moment) for moment in found]


def is_hidden(recorded: Recorded, code: int, modality: Modality) -> bool:
    """An outcome that is neither shown nor asked for."""
    return code == recorded.bundle.vocabulary.mask(modality) - recorded.bundle.vocabulary.range_of(modality).start


@pytest.mark.parametrize("entry", ALIGNED.values(), ids=ALIGNED.keys())
def test_actions_frames_and_outcomes_are_aligned(recorded: Recorded, entry: dict[str, Any]) -> None:
    """The action in front of a frame is one by which the environment leads from the frame before to this one; reward
    and end are those that it answered with. The environment is asked, from the recorded seed on."""
    steps, would_show, outcomes = 0, 0, Counter()
    for keys, sequences in recorded.rows(entry):
        batch = pack([sequences], ROW_TOKENS, recorded.bundle.pad_id)
        for document, key in enumerate(keys):
            episode, window = recorded.episodes[key], read_document(recorded, batch, document)
            start = place_of(window, episode, recorded.coded(episode.frames))
            for number, (before, now) in enumerate(zip(window, window[1:], strict=False)):
                at = start + number
                coded = recorded.branches(key, at)
                assert coded[now.action] == now.picture, "this action does not lead to this frame"
                others = {before.action, window[number + 2].action if number + 2 < len(window) else -1} - {-1}
                would_show += any(coded[other] != now.picture for other in others)
                steps += 1
                if entry["objective"] == "policy" or "agent" in entry:
                    assert before.next_action == now.action, "the agent is asked for another action"
                if not is_hidden(recorded, now.reward, Modality.REWARD):
                    assert now.reward == reward_codes(episode.rewards[at])
                    outcomes["reward"] += now.reward != reward_codes(np.zeros(()))
                if not is_hidden(recorded, now.done, Modality.DONE):
                    assert now.done == episode.done[at]
                    outcomes["done"] += now.done
        if steps > 150 and min(outcomes["reward"], outcomes["done"]) >= 3:
            break
    assert would_show > 30, "actions one step off would have been noticed"


def place_of(window: list[Moment], episode: Episode, coded: list[list[int]]) -> int:
    """The frame of the episode at which the window begins: frames and actions are those from there on."""
    for start in range(len(coded) - len(window) + 1):
        frames = all(moment.picture == coded[start + number] for number, moment in enumerate(window))
        actions = [moment.action for moment in window[1:]] == episode.actions[start : start + len(window) - 1].tolist()
        if frames and actions:
            return start
    raise AssertionError("no part of the episode has these frames with these actions")


@dataclass(frozen=True)
class Asked:
    """Of one window, frame by frame after the first: the share of its codes that are hidden where it is asked for, and
    where what comes later reads it."""

    asked: list[float]
    read: list[float]


def shares(recorded: Recorded, window: CorruptedSequence) -> Asked:
    mask = recorded.bundle.vocabulary.mask(Modality.IMAGE)
    pictures = window.modality == Modality.IMAGE
    runs: dict[tuple[int, int], list[bool]] = {}
    for place in np.flatnonzero(pictures):
        name = (int(window.stream[place]), int(window.block[place]))
        runs.setdefault(name, []).append(window.input_ids[place] == mask)
    clean = [float(np.mean(hidden)) for (stream, _), hidden in runs.items() if stream == CLEAN]
    copies = [float(np.mean(hidden)) for (stream, _), hidden in runs.items() if stream != CLEAN]
    read = clean[-len(copies) :] if copies else [share for share in clean[1:]]
    return Asked(copies or read, read)


def full_windows(recorded: Recorded, entry: dict[str, Any]) -> list[Asked]:
    """Of FRAMES frames, without a sink."""
    found = [shares(recorded, window) for window in recorded.windows(entry | {"sink": False})]
    return [window for window in found if len(window.asked) == FRAMES - 1]


@pytest.mark.parametrize("name", DYNAMICS)
def test_the_past_is_seen_in_training_as_in_sampling(recorded: Recorded, name: str) -> None:
    """A frame is sampled, from nothing, after frames that are complete. Genie and its small copies hide all frames of a
    window alike, so that no training step ever shows that."""
    first_pass = [(w.asked[-1], w.read[:-1]) for w in full_windows(recorded, DYNAMICS[name]) if w.asked[-1] == 1.0]
    assert len(first_pass) > 30
    complete = np.mean([not any(past) for _, past in first_pass])
    expected = 1.0 if "teaching" in name else FORCING["clean_fraction"] ** (FRAMES - 2)
    assert complete >= expected - 3 * math.sqrt(expected * (1 - expected) / len(first_pass))


@pytest.mark.parametrize("name", DYNAMICS)
def test_every_frame_has_a_mask_rate_of_its_own(recorded: Recorded, name: str) -> None:
    """Not one for a batch, or for a window: then a step learns from one kind of question only."""
    windows = full_windows(recorded, DYNAMICS[name])
    asked = np.array([window.asked for window in windows])
    correlation = np.corrcoef(asked.T) - np.eye(FRAMES - 1)
    assert correlation.max() < 3.5 / math.sqrt(len(windows)), "from frame to frame"
    neighbours = np.corrcoef(asked[:-1, 0], asked[1:, 0])[0, 1]
    assert neighbours < 3.5 / math.sqrt(len(windows)), "from window to window of a batch"
    assert len(np.unique(asked)) > 8


@pytest.mark.parametrize("name", DYNAMICS)
def test_the_loss_is_over_what_is_hidden_alone(recorded: Recorded, name: str) -> None:
    """Codes that are shown are not asked: copying them is nearly the whole of a loss over the window, and teaches
    nothing. Nor is what was given: the sink, the first frame, the actions."""
    vocabulary = recorded.bundle.vocabulary
    masks = {vocabulary.mask(modality) for modality in (Modality.IMAGE, Modality.REWARD, Modality.DONE)}
    questions = {vocabulary.agent, vocabulary.value}
    windows = recorded.windows(DYNAMICS[name], 100)
    for window in windows:
        is_asked = window.target != NO_TARGET
        assert set(window.input_ids[is_asked].tolist()) <= masks | questions
        assert ((window.weight > 0) == is_asked).all() and ((window.objective >= 0) == is_asked).all()
        assert (is_asked[np.isin(window.input_ids, list(masks))]).all(), "what is hidden is asked"
        actions = (window.modality == Modality.ACTION) & (window.input_ids != vocabulary.agent)
        first_step = np.flatnonzero(actions)[0] if actions.any() else len(window)
        assert not is_asked[actions].any(), "what was done is given"
        assert not is_asked[:first_step][window.modality[:first_step] == Modality.IMAGE].any(), "so is the beginning"
    batch = pack([windows[:2]], 2 * ROW_TOKENS, recorded.bundle.pad_id)
    objectives = list(recorded.stage(DYNAMICS[name]).objectives.values())
    total = float(normalisers(batch, objectives).sum())
    assert total == pytest.approx(float(batch.weight[batch.target != NO_TARGET].sum())), "a mean over these alone"
