"""Alignment stages: a toy reward rises at a bounded KL, runs go on exactly, and what cannot be judged is refused.

Run: pytest tests/training/test_alignment_stage.py
"""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aligned_run import aligned_run, alignment
from tiny_run import TinyRun, require_same_end, tiny_run, train_here
from toy_sequences import BOS_ID, BUILDER, EOS_ID, PAD_ID, VOCABULARY, tiny_backbone, toy_episode

from data_pipelines.shards.index import read_manifest, write_manifest
from unimodel.batch import PackedBatch, pack
from unimodel.config import EngineConfig, StageConfig
from unimodel.config_file import load_config
from unimodel.config_objectives import DrawingConfig
from unimodel.layout import NO_TARGET
from unimodel.objectives.corruption import corrupt
from unimodel.training.alignment import Aligner, Scores, best_and_worst
from unimodel.training.alignment_setup import right_places
from unimodel.training.alignment_update import AlignmentUpdate, Pictures
from unimodel.training.checkpoint import list_checkpoints, stage_checkpoint
from unimodel.training.drawing import draw_pictures, find_prompts
from unimodel.training.engine import build_engine, start_process_group
from unimodel.training.step import StepOutcome
from unimodel.training.stored_state import AVERAGE, WEIGHT
from unimodel.vocabulary import Modality

ROW_TOKENS = 64
DELIMITERS = (PAD_ID, BOS_ID, EOS_ID)
CODE_A = 3


def stage(accumulation: int = 1, **settings: Any) -> StageConfig:
    values = {
        "number": 5,
        "steps": 100,
        "batch": {"rows": 2, "row_tokens": ROW_TOKENS, "accumulation": accumulation},
        "optimizer": {"learning_rate": 2e-3, "warmup_steps": 0, "schedule": "constant", "ema_decay": 0.0},
        "mixture": [{"sequence": "text_to_image", "objective": "aligned"}],
        "objectives": {"aligned": {"kind": "grpo", "group": 4, "masks": 1, "drawing": {"steps": 2}} | settings},
    }
    return StageConfig.model_validate_json(json.dumps(values))


def prompt(seed: int):
    episode = toy_episode(seed)
    sequence = BUILDER.text_to_image(episode.captions[0], episode.frames[0], f"episode {seed}")
    settings = stage().alignment
    assert settings is not None
    return corrupt(sequence, VOCABULARY, settings, 0, np.random.default_rng(0))


def batch_of(*rows: Sequence[int]) -> PackedBatch:
    return pack([[prompt(seed) for seed in row] for row in rows], ROW_TOKENS, PAD_ID)


def more_of_code_a(texts: Sequence[np.ndarray], codes: Sequence[np.ndarray]) -> Scores:
    """The share of one code in a picture."""
    shares = np.array([(picture == CODE_A).mean() for picture in codes])
    places = [(picture == CODE_A).astype(float) for picture in codes]
    return Scores(shares, (shares == 1).astype(float), np.zeros(len(texts)), places)


def aligner(settings: StageConfig, zero: int = 0) -> Aligner:
    engine_settings = EngineConfig(zero=zero)  # pyright: ignore[reportArgumentType]
    device = start_process_group(engine_settings)
    engine = build_engine(tiny_backbone(), engine_settings, settings, device)
    return Aligner(engine, tiny_backbone(), settings, VOCABULARY, DELIMITERS, more_of_code_a, (0, "aligned"))


def align(settings: StageConfig, steps: int, zero: int = 0) -> list[StepOutcome]:
    """Steps until the model is too far from where it was."""
    one, done = aligner(settings, zero), []
    for step in range(steps):
        done.append(one.step(batch_of([1, 2], [3]), step))
        if done[-1].ends_stage:
            break
    return done


# --- drawing --------------------------------------------------------------------------------------------------------


def test_prompts_are_found_with_their_texts_and_places() -> None:
    batch = batch_of([1, 2], [3])
    prompts = find_prompts(batch, DELIMITERS)
    assert [p.text.tolist() for p in prompts.each] == [toy_episode(seed).captions[0].tolist() for seed in (1, 2, 3)]
    assert [p.num_tokens for p in prompts.each] == [9, 9, 9] and prompts.each[-1].places.stop == len(prompts.rows)
    assert (batch.target[prompts.rows, prompts.columns] != NO_TARGET).all()
    assert find_prompts(pack([[], []], ROW_TOKENS, PAD_ID), DELIMITERS).each == ()


def test_a_picture_depends_on_its_prompt_alone() -> None:
    """Neither on the row, nor on who else is in it, and so not on the number of ranks."""
    drawn: dict[str, list[int]] = {}
    backbone = tiny_backbone()
    for rows in (([1, 2], [3]), ([3, 1], [2]), ([2], [1, 3])):
        prompts = find_prompts(batch_of(*rows), DELIMITERS)
        for micro_rows in (1, 2):
            ids, _ = draw_pictures(backbone, prompts, DrawingConfig(steps=3), VOCABULARY, micro_rows, (0,))
            assert all(int(i) in VOCABULARY.range_of(Modality.IMAGE) for i in ids)
            for one in prompts.each:
                assert drawn.setdefault(one.name, ids[one.places].tolist()) == ids[one.places].tolist()
    other, _ = draw_pictures(backbone, prompts, DrawingConfig(steps=3), VOCABULARY, 1, (1,))
    assert (other != ids).float().mean() > 0.5, "another seed draws others"


def test_codes_are_drawn_as_often_as_the_model_says() -> None:
    """In one pass every place is drawn from the model's own chances, by itself."""
    backbone, prompts = tiny_backbone(), find_prompts(batch_of([1], []), DELIMITERS)
    image = VOCABULARY.range_of(Modality.IMAGE)
    with torch.no_grad():
        chances = backbone(prompts.batch)[:, image.start : image.stop].double().softmax(dim=1)
    draws = torch.stack(
        [draw_pictures(backbone, prompts, DrawingConfig(steps=1), VOCABULARY, 2, (n,))[0] for n in range(200)]
    )
    seen = torch.nn.functional.one_hot(draws - image.start, len(image)).double().mean(dim=0)
    # Four standard deviations of a share of 200 draws.
    assert ((seen - chances).abs() < 4 * (chances * (1 - chances) / 200).sqrt() + 0.02).all()


def test_cold_drawing_takes_the_likeliest() -> None:
    backbone, prompts = tiny_backbone(), find_prompts(batch_of([1], [2]), DELIMITERS)
    image, cold = VOCABULARY.range_of(Modality.IMAGE), DrawingConfig(steps=1, temperature=1e-6)
    with torch.no_grad():
        best = backbone(prompts.batch)[:, image.start : image.stop].argmax(dim=1) + image.start
    assert torch.equal(draw_pictures(backbone, prompts, cold, VOCABULARY, 2, (0,))[0], best)


# --- learning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["masks", "trajectory"])
@pytest.mark.parametrize(
    "settings",
    [{"kind": "grpo"}, {"kind": "grpo", "credit": "place"}, {"kind": "dpo", "preference_scale": 0.3}],
    ids=["grpo", "grpo by place", "dpo"],
)
def test_a_toy_reward_rises_and_the_divergence_stays_below_its_bound(settings: dict[str, Any], likelihood: str) -> None:
    steps = align(stage(**settings, likelihood=likelihood, max_kl=1.5), 15)
    rewards, divergences = ([step.figures[name] for step in steps] for name in ("reward", "kl"))
    assert divergences[0] == 0.0, "nothing has moved yet"
    assert len(steps) == 15 and max(divergences) < 1.5
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.1
    assert all(step.updates == 1 and not step.report.skipped for step in steps)


def test_a_stage_ends_where_it_has_gone_too_far_and_moves_no_further() -> None:
    one, divergences = aligner(stage(max_kl=0.02)), []
    for step in range(20):
        before = {name: p.detach().clone() for name, p in one._engine.module.named_parameters()}
        aligned = one.step(batch_of([1, 2], [3]), step)
        divergences.append(aligned.figures["kl"])
        if aligned.ends_stage:
            break
    assert divergences[-1] > 0.02 and max(divergences[:-1]) <= 0.02
    assert aligned.updates == 0 and not aligned.report.skipped
    assert all(torch.equal(before[name], p) for name, p in one._engine.module.named_parameters())


def test_a_weight_on_the_divergence_holds_it_back() -> None:
    free, held = (align(stage(kl_weight=weight, max_kl=9.0), 8)[-1].figures["kl"] for weight in (0.0, 5.0))
    assert held < free / 2


def test_several_updates_learn_from_the_same_pictures() -> None:
    once, thrice = (align(stage(updates=updates, max_kl=9.0), 3)[-1] for updates in (1, 3))
    assert (once.updates, thrice.updates) == (1, 3)
    assert thrice.figures["kl"] > once.figures["kl"]


def test_the_result_does_not_depend_on_accumulation_or_sharding() -> None:
    steps = [align(stage(), 2), align(stage(accumulation=2), 2), align(stage(), 2, zero=3)]
    for other in steps[1:]:
        for one, another in zip(steps[0], other, strict=True):
            # Sums in another order, and in fp32: pictures would differ only where a draw falls between two roundings.
            assert one.figures == pytest.approx(another.figures, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("credit", ["picture", "place"])
def test_a_rank_without_prompts_takes_part(credit: str) -> None:
    one = aligner(stage(credit=credit))
    aligned = one.step(pack([[], []], ROW_TOKENS, PAD_ID), 0)
    assert aligned.figures["reward"] == 0.0 and aligned.report.targets == 0 and not aligned.report.skipped


def test_a_pair_is_the_best_and_the_worst_of_its_group() -> None:
    prompts = find_prompts(batch_of([1, 2], [3]), DELIMITERS)
    drawn = torch.arange(3)[:, None].expand(3, len(prompts.rows))
    rewards = torch.tensor([[0.1, 0.5, 0.2], [0.3, 0.5, 0.9], [0.2, 0.5, 0.0]])
    pictures = best_and_worst(prompts, drawn, 10 * drawn, rewards)
    better, worse = ([int(ids[p.places][0]) for p in prompts.each] for ids in pictures.ids)
    assert (better[0], better[2]) == (1, 1) and (worse[0], worse[2]) == (0, 2)
    assert torch.equal(pictures.kept, 10 * pictures.ids)
    assert pictures.worth.tolist() == [[1.0] * 9 + [0.0] * 9 + [1.0] * 9, [-1.0] * 9 + [0.0] * 9 + [-1.0] * 9]


def test_credit_by_place_learns_faster_than_by_picture() -> None:
    """From as many pictures, whose reward is a mean over places."""
    rewards = {
        credit: np.mean([step.figures["reward"] for step in align(stage(credit=credit, max_kl=9.0), 12)[-3:]])
        for credit in ("picture", "place")
    }
    assert rewards["place"] > rewards["picture"] + 0.05


def test_right_cells_are_shared_out_among_tokens() -> None:
    cells = np.array([[True, False], [False, True]])
    assert right_places(cells, 2).tolist() == [1, 0, 0, 1]
    assert right_places(cells, 1).tolist() == [0.5]
    assert right_places(cells, 4).reshape(4, 4)[0].tolist() == [1, 1, 0, 0]
    assert right_places(cells, 3).tolist() == [1, 0.5, 0, 0.5, 0.5, 0.5, 0, 0.5, 1]


def test_pairs_have_no_credit_by_place() -> None:
    with pytest.raises(ValueError, match="credit: dpo prefers one picture to another"):
        stage(kind="dpo", credit="place")


def test_a_trajectory_is_read_as_it_was_drawn() -> None:
    """All of its passes together ask for every token once, in the state in which it was drawn: codes, and so their
    log-probabilities, are those of the drawing."""
    drawing = DrawingConfig(steps=3, temperature=1e-6, choice_temperature=0.0)
    settings = stage(likelihood="trajectory", masks=3, drawing={"steps": 3}).alignment
    assert settings is not None
    backbone, prompts = tiny_backbone(), find_prompts(batch_of([1, 2], [3]), DELIMITERS)
    ids, kept = draw_pictures(backbone, prompts, drawing, VOCABULARY, 2, (0,))
    assert [int((kept == step).sum()) for step in range(3)] == [6, 9, 12], "cosine: 7 and 4 of 9 are left open"
    update = AlignmentUpdate(None, backbone, settings, VOCABULARY, prompts, 2)
    pictures = Pictures(ids[None], kept[None], torch.ones(1, 27))
    reads = update.draw_reads(pictures, (0,))
    assert torch.equal(reads.asked.sum(dim=(0, 1)), torch.ones_like(ids))
    assert torch.allclose(reads.weight.sum(dim=1), torch.full((1, len(ids)), 3 / 9))
    for one in update._passes(pictures, reads):
        chances = update._chances(backbone, one)[0]
        # Drawn at next to no temperature, each token that a pass kept was the likeliest in its state.
        assert torch.equal(chances.argmax(dim=1), one.code[0])


@pytest.mark.parametrize("steps", [1, 3])
def test_the_first_pass_is_read_once_for_all_pictures_of_a_prompt(steps: int) -> None:
    """And says of each of them what reading it alone does."""
    settings = stage(likelihood="trajectory", masks=steps, drawing={"steps": steps}).alignment
    assert settings is not None and settings.passes_per_update == 1 + 4 * (steps - 1)
    backbone, prompts = tiny_backbone(), find_prompts(batch_of([1, 2], [3]), DELIMITERS)
    drawn = [draw_pictures(backbone, prompts, settings.drawing, VOCABULARY, 2, (n,)) for n in range(4)]
    ids, kept = (torch.stack(part) for part in zip(*drawn, strict=True))
    update, worth = AlignmentUpdate(backbone, backbone, settings, VOCABULARY, prompts, 2), torch.ones(ids.shape)
    together = Pictures(ids, kept, worth)
    first, *others = update._passes(together, update.draw_reads(together, (0,)))
    assert len(others) == 4 * (steps - 1) and list(first.pictures) == [0, 1, 2, 3]
    taken = update._taken(update._chances(backbone, first)[0], first)
    for number in range(4):
        alone = Pictures(ids[[number]], kept[[number]], worth[[number]])
        one, *_ = update._passes(alone, update.draw_reads(alone, (0,)))
        asks = first.weight[number] > 0
        assert torch.equal(first.places[asks], one.places)
        assert torch.allclose(taken[number][asks], update._taken(update._chances(backbone, one)[0], one)[0], atol=1e-5)


# --- a whole run ----------------------------------------------------------------------------------------------------


@functools.cache
def whole(kind: str) -> TinyRun:
    run = aligned_run(Path(tempfile.mkdtemp(prefix="unimodel-tests-")), kind)
    train_here(run.config)
    return run


@pytest.mark.parametrize("kind", ["grpo", "dpo"])
def test_a_run_that_was_killed_goes_on_byte_for_byte(kind: str, tmp_path: Path) -> None:
    run = aligned_run(tmp_path, kind)
    for name in ("00000003-unified", "00000005-aligned"):
        shutil.copytree(whole(kind).run.checkpoints / name, run.run.checkpoints / name)
    run.run.metrics.write_bytes(b"".join(whole(kind).run.metrics.read_bytes().splitlines(keepends=True)[:5]))
    train_here(run.config)
    require_same_end(run, whole(kind))


def test_it_starts_from_the_moving_average_and_tells_what_it_did() -> None:
    lines = [line for line in whole("grpo").metrics() if line["stage"] == "aligned"]
    assert [line["step"] for line in lines] == [4, 5, 6, 7]
    assert lines[0]["kl"] == 0.0 and 0.0 < lines[-1]["kl"] < 1.0
    assert all({"reward", "success", "violations_per_1000", "telling_fraction"} <= line.keys() for line in lines)
    start = stage_checkpoint(whole("grpo").run.checkpoints, "unified").state()
    name = start.names(AVERAGE)[0]
    assert not torch.equal(start.whole(AVERAGE, name), start.whole(WEIGHT, name))


def test_a_stage_may_be_added_to_a_finished_run(tmp_path: Path) -> None:
    """And another one to a copy of it under another name; the stages that were trained must stay as they are."""
    alone = tiny_run(tmp_path, "stages.unified.steps=3", stages=("unified",))
    train_here(alone.config)
    copy = tmp_path / "runs" / "copy"
    shutil.copytree(alone.config.folder, copy)
    more = f"stages.aligned={alignment('grpo')}"
    train_here(load_config(alone.config_file, [more, "name=copy"]))
    assert list_checkpoints(copy / "checkpoints")[0].name == "00000007-aligned"
    with pytest.raises(ValueError, match=r"different: stages\.unified\.steps \(was 3, is 4\)"):
        train_here(load_config(alone.config_file, [more, "stages.unified.steps=4"]))


def test_a_model_that_had_a_memory_is_aligned_without_it(tmp_path: Path) -> None:
    steps = ("stages.unified.steps=2", "stages.memory.steps=2")
    run = tiny_run(tmp_path, *steps, f"stages.aligned={alignment('grpo')}", stages=("unified", "memory"))
    train_here(run.config)
    assert len(run.metrics()) == 2 + 2 + 4 and run.metrics()[-1]["kl"] >= 0.0


def test_a_stage_that_went_too_far_is_done(tmp_path: Path) -> None:
    run = aligned_run(tmp_path, "grpo", "stages.aligned.objectives.aligned.max_kl=1.0e-9")
    shutil.copytree(whole("grpo").run.checkpoints / "00000003-unified", run.run.checkpoints / "00000003-unified")
    run.run.metrics.write_bytes(b"".join(whole("grpo").run.metrics.read_bytes().splitlines(keepends=True)[:3]))
    train_here(run.config)
    assert list_checkpoints(run.run.checkpoints)[0].name == "00000005-aligned"
    assert "more than max_kl: the stage ends here" in run.run.log.read_text()
    train_here(run.config)
    assert run.num_lines() == 5, "trained to its end"


def test_pictures_that_nobody_can_judge_are_refused(tmp_path: Path) -> None:
    run = aligned_run(tmp_path)
    data = shutil.copytree(run.config.data.folder, tmp_path / "data")
    manifest = read_manifest(data / "train")
    elsewhere = manifest.metadata | {"recording": manifest.metadata["recording"] | {"environment": "CartPole-v1"}}
    write_manifest(data / "train", replace(manifest, metadata=elsewhere))
    config = load_config(run.config_file, [f"data.folder={data}", "stages.unified.steps=1"])
    with pytest.raises(ValueError, match="pictures of CartPole-v1 cannot be judged"):
        train_here(config)
