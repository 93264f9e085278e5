"""Windows of the model's own frames: a rollout of k steps at every place, told from what a window holds alone.

Run: pytest tests/training/test_own_rollout.py
"""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import TinyRun, require_same_end, tiny_run, train_here
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, tiny_backbone, toy_episode, toy_talkie

from unimodel.backbone.model import Backbone
from unimodel.backbone.sequence_parallel import SequenceGroup
from unimodel.batch import CorruptedSequence, PackedBatch, TokenSequence, pack
from unimodel.config import MixtureEntry, StageConfig
from unimodel.config_objectives import MaskedConfig, OwnRolloutConfig, TeacherForcingConfig
from unimodel.layout import CLEAN, Span
from unimodel.objectives.corruption import corrupt
from unimodel.sampling.fill import hide, predict_hidden, read_only
from unimodel.training.checkpoint import list_checkpoints
from unimodel.training.own_rollout import draw_ids, find_copies, uniform_numbers, with_own_frames
from unimodel.vocabulary import Modality

STEPS = 10
TEACHING = TeacherForcingConfig(kind="teacher_forcing")
ROW_TOKENS = 520


def stage(steps: int = 2, fraction: float = 1.0, after: float = 0.5, accumulation: int = 1) -> StageConfig:
    values = {
        "number": 3,
        "steps": STEPS,
        "batch": {"rows": 2, "row_tokens": ROW_TOKENS, "accumulation": accumulation},
        "mixture": [{"sequence": "interaction", "objective": "frames", "frames": 5}],
        "objectives": {"frames": {"kind": "teacher_forcing"}},
        "own_rollout": {"steps": steps, "fraction": fraction, "after": after},
    }
    return StageConfig.model_validate_json(json.dumps(values))


def window(seed: int) -> TokenSequence:
    episode = toy_talkie(seed) if seed % 2 else toy_episode(seed)
    return BUILDER.build("interaction", episode, 0, 5, discount=None if seed % 3 else 0.9)


def taught(seed: int) -> CorruptedSequence:
    return corrupt(window(seed), VOCABULARY, TEACHING, 0, np.random.default_rng(seed))


def text(seed: int) -> CorruptedSequence:
    sequence = BUILDER.text(np.arange(5, 15), 0, 12, f"text {seed}")
    return corrupt(sequence, VOCABULARY, MaskedConfig(kind="masked"), 0, np.random.default_rng(seed))


def batch_of(rows: list[list[CorruptedSequence]]) -> PackedBatch:
    return pack(rows, ROW_TOKENS, PAD_ID)


def rolled(backbone: Backbone, batch: PackedBatch, settings: StageConfig, step: int = 7) -> PackedBatch:
    return with_own_frames(backbone, SequenceGroup(), batch, settings, VOCABULARY, stage_step=step, seed=(0, "stage"))


def changed_documents(before: PackedBatch, after: PackedBatch) -> set[tuple[int, int]]:
    rows, columns = (before.input_ids != after.input_ids).nonzero(as_tuple=True)
    return {(int(r), int(before.document[r, c])) for r, c in zip(rows, columns, strict=True)}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone()


def test_before_its_time_the_model_is_not_even_asked() -> None:
    batch = batch_of([[taught(1)], [text(1)]])

    def never(batch: PackedBatch) -> torch.Tensor:
        raise AssertionError("a pass before its time")

    for settings, step in ((stage(), 4), (stage().model_copy(update={"own_rollout": None}), 9)):
        asked = with_own_frames(never, SequenceGroup(), batch, settings, VOCABULARY, stage_step=step, seed=(0,))
        assert asked is batch


@pytest.mark.parametrize("accumulation", [1, 2])
def test_only_clean_frames_of_windows_that_are_asked_in_copies_change(backbone: Backbone, accumulation: int) -> None:
    batch = batch_of([[taught(1), text(1), taught(2)], [text(2), taught(3)]])
    result = rolled(backbone, batch, stage(accumulation=accumulation))
    for field in fields(PackedBatch):
        if field.name != "input_ids":
            assert torch.equal(getattr(batch, field.name), getattr(result, field.name)), field.name
    copies = find_copies(batch)
    may_change = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    may_change[copies.rows, copies.clean] = True
    assert torch.equal(
        batch.position_ids[:, copies.rows, copies.noisy], batch.position_ids[:, copies.rows, copies.clean]
    )
    assert torch.equal(batch.modality[copies.rows, copies.noisy], batch.modality[copies.rows, copies.clean])
    assert (batch.stream[may_change] == CLEAN).all()
    is_changed = batch.input_ids != result.input_ids
    assert not is_changed[~may_change].any()
    assert is_changed[may_change].float().mean() > 0.5, "a model that knows nothing makes other frames"
    for modality in (Modality.IMAGE, Modality.AUDIO):
        ids = VOCABULARY.range_of(modality)
        made = result.input_ids[may_change & (batch.modality == modality)]
        assert len(made) and ((made >= ids.start) & (made < ids.stop)).all()


@pytest.mark.parametrize("passes", [1, 3])
def test_it_is_a_rollout_of_so_many_steps(backbone: Backbone, passes: int) -> None:
    """Frame by frame and pass by pass, each from a window of its own that ends with it, as a sampler would do it."""
    sequence, episode = window(2), toy_episode(2)
    corrupted = taught(2)
    batch = batch_of([[corrupted], []])
    result = rolled(backbone, batch, stage(steps=passes))
    copies = find_copies(batch)
    uniform = uniform_numbers(batch, copies, passes, (0, "stage", 7))
    own = result.input_ids[copies.rows, copies.clean].numpy()
    pictures = [span for span in sequence.spans if span.modality is Modality.IMAGE]
    size = len(pictures[0])
    clean = corrupted.input_ids[corrupted.stream == CLEAN]
    for number in range(passes):
        made = []
        for time in range(1, 5):
            ends = BUILDER.interaction(episode, 0, time + 1)
            ids = clean[: len(ends)]
            context = replace(read_only(ends), input_ids=np.where(np.arange(len(ends)) < len(ids), ids, ends.ids))
            picture = ends.layout.pictures[-1]
            hidden = np.zeros(len(ends), dtype=bool)
            hidden[picture.start : picture.stop] = True
            (logits,) = predict_hidden(backbone, [hide(context, hidden, VOCABULARY)], PAD_ID)
            numbers = torch.from_numpy(uniform[1 + number, (time - 1) * size : time * size])
            made.append(draw_ids(logits, torch.full((size,), int(Modality.IMAGE)), numbers, VOCABULARY).numpy())
        clean = with_frames(clean, pictures[1:], sequence, made)
    assert (own == np.concatenate(made)).all()


def with_frames(clean: np.ndarray, pictures: list[Span], sequence: TokenSequence, made: list[np.ndarray]) -> np.ndarray:
    """The clean tokens with other frames in the place of these."""
    result = clean.copy()
    for picture, ids in zip(pictures, made, strict=True):
        first = int(sequence.layout.index[picture.start])
        result[first : first + len(ids)] = ids
    return result


def test_what_a_window_becomes_does_not_depend_on_its_row_or_its_neighbours(backbone: Backbone) -> None:
    """So neither on the number of ranks."""
    made = {}
    for layout in ([[1, 2], [3, 4]], [[3], [2, 4, 1]], [[4, 3, 2], [1]]):
        batch = batch_of([[taught(seed) for seed in row] for row in layout])
        result = rolled(backbone, batch, stage(fraction=0.5), step=8)
        for row, seeds in enumerate(layout):
            for document, seed in enumerate(seeds):
                ids = result.input_ids[row, batch.document[row] == document].tolist()
                assert made.setdefault(seed, ids) == ids


def test_a_share_of_the_windows_and_other_ones_in_every_step(backbone: Backbone) -> None:
    batch = batch_of([[taught(1), taught(2)], [taught(3), taught(4)]])
    steps = [changed_documents(batch, rolled(backbone, batch, stage(1, 0.4, 0.0), step)) for step in range(60)]
    shares = np.array([len(documents) / 4 for documents in steps])
    assert shares.mean() == pytest.approx(0.4, abs=4 * np.sqrt(0.4 * 0.6 / 240))
    assert len({frozenset(documents) for documents in steps}) > 6


def test_drawn_ids_follow_the_probabilities() -> None:
    rng, ids = torch.Generator().manual_seed(0), VOCABULARY.range_of(Modality.IMAGE)
    logits = torch.full((20_000, VOCABULARY.size), 5.0)
    logits[:, ids.start : ids.stop] = torch.randn(len(ids), generator=rng)
    expected = logits[0, ids.start : ids.stop].softmax(dim=0)
    uniform = torch.rand(20_000, generator=rng, dtype=torch.float64)
    drawn = draw_ids(logits, torch.full((20_000,), int(Modality.IMAGE)), uniform, VOCABULARY)
    assert torch.allclose(torch.bincount(drawn - ids.start, minlength=len(ids)) / 20_000, expected, atol=0.012)


def test_without_teacher_forcing_it_is_refused() -> None:
    with pytest.raises(ValueError, match="no entry of this stage's mixture has a teacher_forcing objective"):
        StageConfig(
            number=3,
            steps=1,
            mixture=(MixtureEntry(sequence="clip", objective="all"),),
            objectives={"all": MaskedConfig(kind="masked"), "frames": TEACHING},
            own_rollout=OwnRolloutConfig(),
        )


# --- a run ----------------------------------------------------------------------------------------------------------

SETTINGS = (
    "stages.interactive.steps=10",
    "stages.interactive.batch.row_tokens=512",
    "stages.interactive.objectives.frames={kind: teacher_forcing}",
    "checkpoint.every_steps=6",
    "checkpoint.keep_last=9",
)
OWN = "stages.interactive.own_rollout={after: 0.4}"


def trained(folder: Path, *overrides: str) -> TinyRun:
    run = tiny_run(folder, *SETTINGS, *overrides, stages=("interactive",))
    train_here(run.config)
    return run


@pytest.mark.parametrize("zero", [0, 3])
def test_a_resumed_run_is_bit_equal(zero: int, tmp_path: Path) -> None:
    """From a checkpoint amid its rollouts."""
    whole = trained(tmp_path / "whole", OWN, f"engine.zero={zero}")
    resumed = tiny_run(tmp_path / "resumed", *SETTINGS, OWN, f"engine.zero={zero}", stages=("interactive",))
    half = list_checkpoints(whole.run.checkpoints)[-1]
    assert half.name.startswith("00000006")
    shutil.copytree(half, resumed.run.checkpoints / half.name)
    resumed.run.metrics.write_bytes(b"".join(whole.run.metrics.read_bytes().splitlines(keepends=True)[:6]))
    train_here(resumed.config)
    require_same_end(whole, resumed)


def test_it_changes_what_is_learnt_from_its_step_on(tmp_path: Path) -> None:
    own, real = trained(tmp_path / "own", OWN), trained(tmp_path / "real")
    same = [line["loss"] == there["loss"] for line, there in zip(own.metrics(), real.metrics(), strict=True)]
    assert same == [True] * 4 + [False] * 6
    assert [line["tokens"] for line in own.metrics()] == [line["tokens"] for line in real.metrics()]
