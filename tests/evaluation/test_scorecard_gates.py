"""Every gate of the score card lets a world through that has the property, and stops one in which it is broken.

Run: pytest tests/evaluation/test_scorecard_gates.py
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_rollouts import COLOURS, LOSS, SIDE, frozen, paint, perfect, toy_rollout

from data_pipelines.sources import balls
from data_pipelines.sources.episode import Episode
from data_pipelines.sources.families import open_judge, open_world
from unimodel.config_tokenizers import ImageTokenizerConfig
from unimodel.evaluation.branches import Branched, Branching
from unimodel.evaluation.likelihood import Likelihoods
from unimodel.evaluation.memory import Recalled
from unimodel.evaluation.rollouts import CONTEXT_FRAMES, Frames, Outcomes, Rollout
from unimodel.evaluation.scorecard import agency, alignment, coherence, compression, emergence, persistence
from unimodel.evaluation.scorecard.compression import StepCosts
from unimodel.evaluation.scorecard.loops import Loop, Walked
from unimodel.evaluation.scorecard.predictors import as_it_was, standing_still
from unimodel.evaluation.scorecard.restart import Continued
from unimodel.evaluation.scorecard.revisits import revisit_answers
from unimodel.evaluation.scorecard.score import (
    COPY,
    MODEL,
    WINDOW,
    Definition,
    Gate,
    Score,
    gate,
    measured,
    not_measured,
)
from unimodel.evaluation.scorecard.standing import standing, verdict
from unimodel.evaluation.table import Estimate
from unimodel.tokenizers.image import ImageTokenizer
from unimodel.world.state import WorldState

EPISODES, ROUNDS, WINDOW_FRAMES, LONG_ROUND = 30, 10, 4, 41
NOTHING = np.zeros(0, dtype=np.int64)
NONE = Outcomes(np.zeros(0), np.zeros(0))
Pair = tuple[Score, Score]
"""Of a world that has the property, and of one in which it is broken."""


# --- rounds: an agent goes from place to place and comes back to each after so many steps ---------------------------


def _round(seed: int, length: int, steps: int, changes: bool = False) -> tuple[Episode, Rollout]:
    """Places that look different from each other; where it `changes`, one square of each is another when it is seen
    again. The rollout is perfect."""
    rng = np.random.default_rng(seed)
    places = np.stack([_digits(place, length) for place in range(length)])
    codes = places[np.arange(steps + 1) % length]
    if changes:
        codes[:, 2, 2] = rng.integers(COLOURS) + np.arange(steps + 1) // length
        codes[:, 2, 2] %= COLOURS
    poses = np.stack([np.arange(steps + 1) % length, np.zeros(steps + 1), np.zeros(steps + 1)], axis=1)
    key, frames = f"round-{seed}", paint(codes)
    episode = Episode(
        key, frames, np.zeros(steps, np.int64), np.zeros(steps, np.float32), np.zeros(steps, bool),
        poses.astype(np.int64), "", ("",) * (steps + 1), balls.ENVIRONMENTS[0] if changes else "rounds", seed, 2,
    )  # fmt: skip
    real = Frames(codes[CONTEXT_FRAMES:], frames[CONTEXT_FRAMES:])
    given = Frames(codes[CONTEXT_FRAMES - 1], frames[CONTEXT_FRAMES - 1])
    return episode, Rollout(key, real, real, given, real.pictures, NONE, NONE)


def _digits(number: int, count: int) -> np.ndarray:
    """Codes [SIDE, SIDE] that no other number below `count` has."""
    assert count <= COLOURS**3
    codes = np.zeros((SIDE, SIDE), dtype=np.int64)
    codes[0] = [number % COLOURS, number // COLOURS % COLOURS, number // COLOURS**2]
    return codes


def _shuffled(rollout: Rollout) -> Rollout:
    """Its memories mixed up: frames of the world, at other times."""
    order = np.random.default_rng(1).permutation(rollout.steps)
    return replace(rollout, made=Frames(rollout.real.codes[order], rollout.real.pictures[order]))


def _as_last_seen(rollout: Rollout, length: int) -> Rollout:
    """What was seen a round before."""
    whole = np.concatenate([np.repeat(rollout.given.codes[None], CONTEXT_FRAMES, axis=0), rollout.real.codes])
    before = np.maximum(np.arange(CONTEXT_FRAMES, len(whole)) - length, 0)
    return replace(rollout, made=Frames(whole[before], paint(whole[before])))


def _restart() -> Pair:
    rng = np.random.default_rng(0)
    never = [rng.integers(COLOURS, size=(6, SIDE, SIDE)) for _ in range(4)]
    anew = [(frames + 1) % COLOURS for frames in never]
    lost = [frames.copy() for frames in never]
    lost[2][-1, 0, 0] += 1  # a single token of a single world
    whole, broken = ([Continued(*parts) for parts in zip(some, never, anew, strict=True)] for some in ([*never], lost))
    return persistence.score_restart(whole), persistence.score_restart(broken)


def _revisit() -> Pair:
    episodes, rollouts = zip(*(_round(seed, 6, 30) for seed in range(ROUNDS)), strict=True)
    known = {episode.key: episode for episode in episodes}
    return _both(lambda some: _revisits(_beside(some), known), rollouts, [_shuffled(one) for one in rollouts])


def _half_life() -> Pair:
    episodes, rollouts = zip(*(_round(seed, LONG_ROUND, 90) for seed in range(4)), strict=True)
    known = {episode.key: episode for episode in episodes}

    def score(some: Sequence[Rollout]) -> Score:
        answers = {n: revisit_answers(r, known, WINDOW_FRAMES) for n, r in _beside(some).items()}
        return persistence.score_half_life(answers)

    quick = [_round(seed, 6, 90) for seed in range(4)]  # what is forgotten has to have been asked before, too
    known |= {f"quick {one.key}": replace(one, key=f"quick {one.key}") for one, _ in quick}
    short = [replace(one, key=f"quick {one.key}") for _, one in quick]
    whole = [*rollouts, *short]
    return _both(score, whole, [*(_shuffled(one) for one in rollouts), *short])


def _evolution() -> Pair:
    episodes, rollouts = zip(*(_round(seed, 6, 30, changes=True) for seed in range(ROUNDS)), strict=True)
    known = {episode.key: episode for episode in episodes}
    return _both(
        lambda some: persistence.score_evolution(_beside(some) | {WINDOW: standing_still(some)}, known, WINDOW_FRAMES),
        rollouts,
        [_as_last_seen(one, 6) for one in rollouts],
    )


def _recall() -> Pair:
    def read(knows_steps: int, seed: int = 0) -> list[Recalled]:
        rng, some = np.random.default_rng(seed), []
        for _ in range(EPISODES):
            since = np.where(rng.random(240) < 0.3, rng.integers(1, 160, size=240), 0)
            right = np.where((since <= knows_steps) & (since > 0), 5, 1)
            some.append(Recalled(since, right, 5, np.zeros(240, bool), np.zeros(240, bool)))
        return some

    def score(ours: Sequence[Recalled]) -> Score:
        empty = read(WINDOW_FRAMES)
        each = {MODEL: ours, WINDOW: empty, COPY: read(0)}
        return persistence.score_recall(
            {name: persistence.recalled_answers(some, empty, WINDOW_FRAMES) for name, some in each.items()}
        )

    rng = np.random.default_rng(3)
    forgot = [replace(one, right=rng.permutation(np.full(len(one.right), 1))) for one in read(1000)]
    return score(read(1000)), score(forgot)


# --- agency ---------------------------------------------------------------------------------------------------------


def _branches() -> Pair:
    def branching(seed: int) -> Branching:
        before, outcomes = np.full((SIDE, SIDE), COLOURS - 1), []
        for kind in range(3):
            after = before.copy()
            after.flat[(seed + kind) % after.size] = kind
            outcomes.append(after)
        world, three = WorldState(NOTHING, before[None], NOTHING), np.arange(3)
        return Branching(0, world, paint(np.stack(outcomes)), three, three, three)

    states = [branching(seed) for seed in range(EPISODES)]
    codes = np.zeros((3, SIDE, SIDE), dtype=int)
    whole, permuted = (
        [Branched(state, codes, state.frames[order]) for state in states] for order in ([0, 1, 2], [1, 2, 0])
    )
    return _both(lambda some: agency.score_branches({MODEL: some}, whole), whole, permuted)


def _information() -> Pair:
    told = np.random.default_rng(0).normal(2.0, 1.0, size=EPISODES)
    ignored = np.zeros(EPISODES)
    return _both(lambda some: agency.score_information({MODEL: some}), [told, told + 1], [told, ignored])


def _ranks() -> Pair:
    rewards = np.random.default_rng(0).normal(size=(EPISODES, 1))
    rollouts = [_rewarded(seed, row, row + 0.1) for seed, row in enumerate(rewards)]
    upside_down = [_rewarded(seed, row, -row) for seed, row in enumerate(rewards)]
    return _both(lambda some: agency.score_ranks(_beside(some)), rollouts, upside_down)


# --- emergence ------------------------------------------------------------------------------------------------------


def _compositions() -> Pair:
    rollouts = _squares(perfect)
    missions = {one.key: "new" if number % 2 else "known" for number, one in enumerate(rollouts)}
    lost = [_squares(frozen)[n] if n % 2 else one for n, one in enumerate(rollouts)]
    return _both(lambda some: emergence.score_compositions(_beside(some), missions, {"known"}), rollouts, lost)


def _macro() -> Pair:
    real = _squares(perfect)

    def boiling(codes: np.ndarray, given: np.ndarray) -> np.ndarray:
        return np.random.default_rng(int(codes.sum())).integers(COLOURS, size=codes.shape)

    return _both(lambda some: emergence.score_macro(_beside(some), as_it_was(real)), real, _squares(boiling))


def _social() -> Pair:
    told = np.random.default_rng(0).normal(1.0, 0.5, size=EPISODES)
    return _both(lambda cost: emergence.score_social({MODEL: cost}, 2), told, told - told.mean())


# --- coherence ------------------------------------------------------------------------------------------------------


@functools.cache
def _tokenizer() -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(ImageTokenizerConfig(patch_pixels=8, levels=(4, 4, 3), width=8)).eval()


def _drift() -> Pair:
    def apart(real: np.ndarray, given: np.ndarray) -> np.ndarray:
        wrong = np.arange(len(real)) >= len(real) // 2
        return np.where(wrong[:, None, None], given, real)

    return _both(lambda some: coherence.score_drift(_beside(some), _tokenizer()), _squares(perfect), _squares(apart))


def _rules() -> Pair:
    name, size = "BabyAI-GoToLocalS8N3-v0", 64
    frames = []
    for seed in range(8):
        world = open_world(name, seed, size)
        frames.append(np.stack([world.frame, *(world.step(action).frame for action in (0, 0, 0, 0))]))
        world.close()

    def rolled(pictures: Sequence[np.ndarray]) -> list[Rollout]:
        codes = np.zeros((4, 2, 2), dtype=int)
        both = zip(frames, pictures, strict=True)
        pairs = [[Frames(codes, some[1:]) for some in (real, made)] for real, made in both]
        return [
            Rollout(str(n), *pair, Frames(codes[0], real[0]), real[1:], NONE, NONE)
            for n, (pair, real) in enumerate(zip(pairs, frames, strict=True))
        ]

    rng = np.random.default_rng(0)
    mixed = np.stack(frames).reshape(8, 5, 8, 8, 8, 8, 3)
    mixed = np.stack([mixed[rng.permutation(8)] for _ in range(8)])[0]
    for row in range(8):  # every cell from an episode of its own
        for column in range(8):
            mixed[:, :, row, :, column] = mixed[rng.permutation(8), :, row, :, column]
    anyhow = rolled([*mixed.reshape(8, 5, size, size, 3)])
    two = [np.maximum(one, other) for one, other in zip(frames, frames[1:] + frames[:1], strict=True)]
    judge = open_judge(name, size)
    return _both(
        lambda some: coherence.score_rules({MODEL: some}, rolled(frames), anyhow, judge), rolled(frames), rolled(two)
    )


def _loops() -> Pair:
    def walked(seed: int, returns: bool) -> Walked:
        rng = np.random.default_rng(seed)
        home, there = (rng.integers(256, size=(8, 8, 3)).astype(np.uint8) for _ in range(2))
        loop = Loop("", WorldState(NOTHING, NOTHING, NOTHING), (0, 1), np.stack([home, there, home]), 1)
        return Walked(loop, there, home if returns else there)

    whole, lost = ([walked(seed, returns) for seed in range(EPISODES)] for returns in (True, False))
    return _both(lambda some: coherence.score_loops({MODEL: some}, whole), whole, lost)


# --- compression, alignment -----------------------------------------------------------------------------------------


def _bits() -> Pair:
    rng = np.random.default_rng(0)
    codes = rng.integers(COLOURS, size=(EPISODES, SIDE, SIDE))
    changed = rng.random(codes.shape) < 0.3

    def score(nats: float) -> Score:
        true = rng.normal(nats, 0.1, size=EPISODES)
        return compression.score_bits({MODEL: Likelihoods(true, true, changed, codes, paint(codes))})

    return score(3.0), score(30.0)


def _bytes() -> Pair:
    return compression.score_bytes(90, 16, 256, 10, 0.9), compression.score_bytes(4000, 16, 256, 10, 0.9)


def _cost() -> Pair:
    early = np.random.default_rng(0).normal(0.02, 0.001, size=24)
    steady, growing = (StepCosts(early.tolist(), (early * factor).tolist(), 12, 60) for factor in (1.05, 4.0))
    return compression.score_cost(steady), compression.score_cost(growing)


def _row(metric: str, model: float, low: float, high: float, baseline: float, ceiling: float) -> dict[str, object]:
    return {
        "metric": metric, "model": model, "interval": [low, high], "baseline": baseline, "ceiling": ceiling,
        "samples": 100, "stage": "aligned",
    }  # fmt: skip


def _instruction() -> Pair:
    rows = [_row("instruction success", value, value - 0.1, value + 0.1, 0.02, 0.99) for value in (0.8, 0.05)]
    return alignment.score_instruction(rows[:1]), alignment.score_instruction(rows[1:])


def _constraint() -> Pair:
    name = "law violations per 1,000 frames"
    rows = [_row(name, value, value - 20, value + 20, 400, 0.0) for value in (100.0, 900.0)]
    return alignment.score_constraint(rows[:1]), alignment.score_constraint(rows[1:])


def _return() -> Pair:
    rewards = np.random.default_rng(0).uniform(0, 1, size=(EPISODES, 1))
    some, dreamt = ([_rewarded(s, r, r * factor) for s, r in enumerate(rewards)] for factor in (1.05, 2.5))
    return _both(lambda rollouts: alignment.score_return(_beside(rollouts)), some, dreamt)


def _exploitation() -> Pair:
    def control(imagined: float, real: float) -> Score:
        def played(imagined: float, real: float) -> dict[str, object]:
            gap = imagined - real
            means = {"imagined_return": imagined, "real_return": real, "gap": gap}
            score = {name: {"mean": mean, "interval": [mean - 0.05, mean + 0.05]} for name, mean in means.items()}
            return {"score": score, "pairs": [{}] * 20}

        return alignment.score_exploitation(
            {"controllers": {"random": played(0.1, 0.1), "cem": played(imagined, real), "bc": played(0.2, 0.2)}}
        )

    return control(0.9, 0.85), control(0.9, 0.15)


# --- what every one of them must be ---------------------------------------------------------------------------------

CASES: dict[str, Callable[[], Pair]] = {
    persistence.RESTART.name: _restart,
    persistence.REVISIT.name: _revisit,
    persistence.HALF_LIFE.name: _half_life,
    persistence.EVOLUTION.name: _evolution,
    persistence.RECALL.name: _recall,
    agency.BRANCHES.name: _branches,
    agency.INFORMATION.name: _information,
    agency.RANKS.name: _ranks,
    emergence.COMPOSITIONS.name: _compositions,
    emergence.MACRO.name: _macro,
    emergence.SOCIAL.name: _social,
    coherence.DRIFT.name: _drift,
    coherence.RULES.name: _rules,
    coherence.LOOPS.name: _loops,
    compression.BITS.name: _bits,
    compression.BYTES.name: _bytes,
    compression.COST.name: _cost,
    alignment.INSTRUCTION.name: _instruction,
    alignment.CONSTRAINT.name: _constraint,
    alignment.RETURN.name: _return,
    alignment.EXPLOITATION.name: _exploitation,
}
PARTS = (persistence, agency, emergence, coherence, compression, alignment)
DEFINITIONS = {one.name for part in PARTS for one in vars(part).values() if isinstance(one, Definition)}


@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_a_gate_passes_what_is_whole_and_fails_what_is_broken(name: str) -> None:
    whole, broken = CASES[name]()
    assert whole.definition.name == broken.definition.name == name
    assert not whole.missing and not broken.missing
    assert whole.passes() is True, whole.to_dict()
    assert broken.passes() is False, broken.to_dict()


def test_who_remembers_who_forgets_and_who_stands_still_are_ranked_in_this_order() -> None:
    """The model makes what happens, a window is right as long as nothing is older than it, a copy stands still."""

    def forgetting(real: np.ndarray, given: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(real))[:, None, None] < 5, real, frozen(real, given))

    both = {MODEL: _squares(perfect), WINDOW: _squares(forgetting)}
    rollouts = {**both, COPY: standing_still(both[MODEL])}
    real, missions = as_it_was(both[MODEL]), {one.key: one.key for one in both[MODEL]}
    seen = {one.key for one in real[: EPISODES // 2]}
    episodes, perfect_rounds = zip(*(_round(seed, 6, 30) for seed in range(ROUNDS)), strict=True)
    lost = [_shuffled(one) for one in perfect_rounds]
    rounds = {MODEL: perfect_rounds, WINDOW: lost, COPY: standing_still(perfect_rounds)}
    scores = [
        coherence.score_drift(rollouts, _tokenizer()),
        emergence.score_compositions(rollouts, missions, seen),
        emergence.score_macro(rollouts, real),
        _revisits(rounds, {one.key: one for one in episodes}),
    ]
    places = standing([score.to_dict() for score in scores])
    assert [place["predictor"] for place in places] == [MODEL, WINDOW, COPY]
    assert [place["place"] for place in places] == [1, 2, 3]
    assert places[0]["passed"] == places[0]["of"] == len(scores) and places[-1]["passed"] == 0
    assert places[0]["mean_way"] > places[1]["mean_way"] > places[2]["mean_way"]


def test_who_passes_as_many_gates_shares_the_place() -> None:
    figures = {name: Estimate(value, 0.6, 0.9) for name, value in ((MODEL, 0.7), (WINDOW, 0.8), (COPY, 0.0))}
    figures[COPY] = Estimate(0.0, 0.0, 0.0)
    places = standing([measured(agency.BRANCHES, figures, 0.0, 1.0, 5).to_dict()])
    assert [(place["place"], place["predictor"]) for place in places] == [(1, MODEL), (1, WINDOW), (3, COPY)]


def test_returns_leave_out_what_hardly_comes() -> None:
    """The little that is expected of each of a thousand steps is no return."""
    little = Outcomes(np.full(1000, 0.01), np.zeros(1000), np.full(1000, 0.02))
    assert little.total_reward == 0.0
    sure = Outcomes(np.array([0.01, 0.9]), np.zeros(2), np.array([0.02, 0.95]))
    assert sure.total_reward == 0.9 and replace(sure, rewarded=None).total_reward == pytest.approx(0.91)


def test_a_gate_asks_for_the_way_and_for_certainty() -> None:
    higher = Definition("x", "agency", "", "", "", Gate(0.5))
    lower = replace(higher, higher_is_better=False)
    assert gate(higher, Estimate(0.6, 0.2, 0.9), 0.0, 1.0)
    assert not gate(higher, Estimate(0.4, 0.3, 0.5), 0.0, 1.0), "less than half of the way"
    assert not gate(higher, Estimate(0.6, -0.1, 0.9), 0.0, 1.0), "it may be the baseline"
    assert not gate(higher, Estimate(0.6), 0.0, 1.0), "nobody knows how sure it is"
    assert gate(lower, Estimate(1.2, 1.1, 1.9), 2.0, 1.0)
    assert not gate(lower, Estimate(1.2, 1.1, 2.1), 2.0, 1.0)
    assert not gate(lower, Estimate(1.6, 1.5, 1.7), 2.0, 1.0)
    exact = replace(higher, gate=Gate(1.0, is_sure=False))
    assert gate(exact, Estimate(1.0), 1.0, 1.0) and not gate(exact, Estimate(0.999), 1.0, 1.0)


def test_what_is_not_measured_is_no_pass_and_counts_for_nobody() -> None:
    nothing = not_measured(agency.BRANCHES, "no reason")
    assert nothing.passes() is None and nothing.to_dict()["passed"] is None
    useless = measured(agency.BRANCHES, {MODEL: Estimate(1.0, 1.0, 1.0)}, 1.0, 1.0, 5)
    assert useless.missing and useless.passes() is None, "a baseline as good as reality tells nobody apart"
    unknown = measured(agency.BRANCHES, {MODEL: Estimate(float("nan"))}, 0.0, 1.0, 5)
    assert unknown.missing and unknown.passes() is None
    whole, _ = _cost()
    told = [score.to_dict() for score in (nothing, whole)]
    assert verdict(told) == "1 of 1 gates passed, 1 scores not measured"
    assert all(place["of"] == 0 for place in standing(told)), "only the model has a cost"


@pytest.mark.parametrize(
    ("score", "why"),
    [
        (lambda: persistence.score_evolution({MODEL: []}, {"a": _round(0, 6, 30)[0]}, 4), "out of sight"),
        (lambda: emergence.score_social({}, 1), "one agent"),
        (lambda: emergence.score_compositions({MODEL: _squares(perfect)}, _Same(), {""}), "every mission"),
        (lambda: agency.score_branches({}, []), "no state"),
        (lambda: agency.score_information({}), "memory"),
        (lambda: agency.score_ranks({MODEL: _squares(perfect)}), "same return"),
        (lambda: alignment.score_instruction([]), "unimodel eval"),
        (lambda: alignment.score_exploitation(None), "unimodel world plan"),
        (lambda: persistence.score_half_life({MODEL: _answers()}), "longer episodes"),
        (lambda: persistence.score_revisits({MODEL: _answers()}, _answers(), 30), "it takes 20"),
        (lambda: coherence.score_loops({}, []), "lead back"),
    ],
)
def test_a_run_that_cannot_have_a_figure_is_told_why(score: Callable[[], Score], why: str) -> None:
    found = score()
    assert why in found.missing and found.passes() is None and not found.figures


class _Same(dict[str, str]):
    """Every episode has the same mission."""

    def __missing__(self, key: str) -> str:
        return ""


def _revisits(rollouts: Mapping[str, Sequence[Rollout]], known: Mapping[str, Episode]) -> Score:
    found = {name: revisit_answers(some, known, WINDOW_FRAMES) for name, some in rollouts.items()}
    real = revisit_answers(as_it_was(rollouts[MODEL]), known, WINDOW_FRAMES)
    return persistence.score_revisits(found, real, WINDOW_FRAMES)


def _answers():
    episode, rollout = _round(0, 6, 24)
    return revisit_answers([rollout], {episode.key: episode}, WINDOW_FRAMES)


def _both(score: Callable, whole, broken) -> Pair:
    return score(whole), score(broken)


def _beside(some: Sequence[Rollout]) -> dict[str, Sequence[Rollout]]:
    return {MODEL: some, COPY: standing_still(some)}


def _squares(model) -> list[Rollout]:
    return [toy_rollout(seed, 8, model) for seed in range(EPISODES)]


def _rewarded(seed: int, real: np.ndarray, expected: np.ndarray) -> Rollout:
    one, steps = toy_rollout(seed, len(real), perfect), len(real)
    return replace(one, happened=Outcomes(real, np.zeros(steps)), expected=Outcomes(expected, np.zeros(steps)))


def test_the_tokenizer_of_the_toys_is_a_little_off() -> None:
    """Or the floor of the real frames would be nothing."""
    one = toy_rollout(0, 3, perfect)
    assert np.array_equal(one.ceiling, one.real.pictures + np.uint8(LOSS))
