"""`unimodel eval --stage world` from end to end, on runs that hardly learnt anything: complete, honest, made once.

Run: pytest tests/evaluation/test_scorecard.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import TinyRun, tiny_run, train_here
from toy_memories import EACH, remembering
from typer.testing import CliRunner

from unimodel.cli import app
from unimodel.evaluation.held_out import load_held_out
from unimodel.evaluation.report import write_report
from unimodel.evaluation.rollouts import step_worlds
from unimodel.evaluation.scorecard import agency, alignment, coherence, compression, emergence, persistence
from unimodel.evaluation.scorecard.card import make_card
from unimodel.evaluation.scorecard.finished import has_card
from unimodel.evaluation.scorecard.loops import find_loops, loops_as_they_were, loops_standing_still, walk_loops
from unimodel.evaluation.scorecard.predictors import window_only
from unimodel.evaluation.scorecard.restart import restart_worlds, same_tokens
from unimodel.evaluation.scorecard.score import PROPERTIES, Definition
from unimodel.evaluation.scorecard.standing import card_lines
from unimodel.memory.memory import Memory
from unimodel.run_folder import read_json
from unimodel.training.loaded_run import load_run
from unimodel.world.rollout import worlds_of
from unimodel.world.state import WorldState

PARTS = (persistence, agency, emergence, coherence, compression, alignment)
DEFINITIONS = [one for part in PARTS for one in vars(part).values() if isinstance(one, Definition)]
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "scorecard.md"
SMALL = ("evaluation.horizons=[1, 4]", "evaluation.branch_states=2", "evaluation.sampling_steps=1")


@pytest.fixture(scope="module", params=["interactive", "memory"])
def carded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = tiny_run(tmp_path_factory.mktemp(request.param), *SMALL, stages=(request.param,))
    train_here(run.config)
    make_card(run.run.path, "test")
    return run


def test_every_score_is_there_once_with_a_figure_or_a_reason(carded: TinyRun) -> None:
    card = json.loads(carded.run.scorecard.read_text(), parse_constant=pytest.fail)
    assert sorted(score["name"] for score in card["scores"]) == sorted(one.name for one in DEFINITIONS)
    assert {score["property"] for score in card["scores"]} == set(PROPERTIES)
    for score in card["scores"]:
        assert bool(score["figures"]) != bool(score["not_measured"]), score["name"]
        assert (score["passed"] is None) == bool(score["not_measured"]), score["name"]
        assert score["formula"] and score["baseline_name"]
    measured = {score["name"]: score for score in card["scores"] if score["figures"]}
    restart = measured["restart fidelity"]
    assert restart["figures"]["model"]["value"] == 1.0 and restart["passed"]
    for name in {"drift", "macro statistics", "loop closure", "counterfactual branches"} & set(measured):
        assert set(measured[name]["figures"]) == {"model", "window only", "copy last"}
    if "drift" in measured:  # five steps of the tokenizer may not tell frames apart
        assert measured["drift"]["figures"]["copy last"]["value"] == measured["drift"]["baseline"]
    has_memory = "memory" in carded.config.stages
    assert ("memory over an archive of all codes" in measured) == has_memory
    assert ("bits per frame" in measured) == (not has_memory), "likelihoods are those of windows"
    assert [place["predictor"] for place in card["standing"]][-1] in {"model", "window only", "copy last"}


def test_the_command_prints_the_card_and_makes_it_once(carded: TinyRun) -> None:
    before = carded.run.scorecard.stat().st_mtime_ns
    assert has_card(carded.config, carded.run, "test") and not has_card(carded.config, carded.run, "validation")
    result = CliRunner().invoke(app, ["eval", "--stage", "world", str(carded.run.path)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert carded.run.scorecard.stat().st_mtime_ns == before
    for line in card_lines(read_json(carded.run.scorecard)):
        assert line.needed and len(line.figures) == 3
    assert "not measured: social information: one agent acts in this world" in result.output
    assert "gates passed" in result.output and "copy last: " in result.output


def test_the_report_shows_it(carded: TinyRun) -> None:
    page = write_report(carded.run.path).read_text()
    assert "Score card of the world" in page and "gates passed" in page
    assert "one agent acts in this world" in page
    assert "Score card of the world: run" not in page, "that is said where there is none"


def test_window_only_knows_nothing_older_than_its_window(carded: TinyRun) -> None:
    loaded = load_run(carded.run.path)
    shortened, about = window_only(loaded)
    held_out = load_held_out(loaded.config, loaded.run, "test", loaded.bundle.vocabulary, loaded.bundle.builder.eos_id)
    episode = max(held_out.tokens, key=lambda one: one.num_frames)
    size = loaded.bundle.vocabulary.image_size
    other = episode.frames.copy()
    other[0] = (other[0] + 1) % size  # another past, the same last frames
    states = [
        WorldState(episode.mission, frames[:6], episode.actions[:5])
        for frames in (np.resize(one, (6, *one.shape[1:])) for one in (episode.frames, other))
    ]
    states = [
        WorldState(one.mission, np.concatenate([one.frames[:1], states[0].frames[1:]]), one.actions) for one in states
    ]
    made, expected = step_worlds(worlds_of(shortened), states, [episode.actions[:1]] * 2)
    assert np.array_equal(*made) and expected[0].rewards == expected[1].rewards
    has_memory = loaded.config.stages[loaded.stage].memory is not None
    assert ("empty memory" in about) == has_memory
    assert not has_memory or not loaded.backbone.memory.forgets, "the model itself forgets nothing"


def test_a_forgetful_memory_is_that_of_a_world_that_begins() -> None:
    memory = remembering(EACH[-1]).memory
    assert isinstance(memory, Memory)
    begun = memory.forgetful().init(2, torch.device("cpu"))
    assert all(torch.equal(value, memory.init(2, torch.device("cpu"))[key]) for key, value in begun.items())
    assert not memory.forgets


def test_loops_lead_back_and_standing_still_is_no_loop(carded: TinyRun) -> None:
    loaded = load_run(carded.run.path)
    held_out = load_held_out(loaded.config, loaded.run, "test", loaded.bundle.vocabulary, loaded.bundle.builder.eos_id)
    loops = find_loops(loaded, held_out)
    assert loops, "who turns left four times is back"
    for loop in loops:
        assert np.array_equal(loop.real[0], loop.real[-1]) and len(loop.real) == len(loop.actions) + 1
        assert not np.array_equal(loop.real[0], loop.real[loop.away])
    assert len(walk_loops(loaded, loops)) == len(loops)
    assert not any(walked.is_closed for walked in loops_standing_still(loops, loaded.bundle.image))
    assert len(loops_as_they_were(loops, loaded.bundle.image)) == len(loops)


def test_a_restarted_world_is_compared_with_one_that_never_was(carded: TinyRun) -> None:
    loaded = load_run(carded.run.path)
    held_out = load_held_out(loaded.config, loaded.run, "test", loaded.bundle.vocabulary, loaded.bundle.builder.eos_id)
    worlds = restart_worlds(loaded, held_out)
    assert same_tokens([w.restarted for w in worlds], [w.never_closed for w in worlds]).tolist() == [1.0] * len(worlds)
    anew = same_tokens([w.begun_anew for w in worlds], [w.never_closed for w in worlds])
    assert anew.min() < 1.0, "noise that begins anew is another"
    assert not list(carded.run.path.glob("worlds/*")), "the run's own worlds are left alone"


def test_a_run_without_a_world_says_so(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, stages=("masked",))
    train_here(run.config)
    with pytest.raises(ValueError, match="none of its stages was trained on interaction sequences"):
        make_card(run.run.path, "test")


def test_every_score_is_documented() -> None:
    text = DOCUMENTATION.read_text()
    assert [one.name for one in DEFINITIONS if f"| {one.name} |" not in text] == []
