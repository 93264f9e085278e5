"""`unimodel eval --stage world`: the properties of a world as numbers, of the model and of two that it must beat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from data_pipelines.extras import MissingExtraError
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.storage import join
from data_pipelines.sources.episode import decode_about
from data_pipelines.sources.since_seen import steps_since_seen
from unimodel.evaluation.branches import Branched, branching_states, step_branches
from unimodel.evaluation.held_out import HeldOut, Split, load_held_out
from unimodel.evaluation.likelihood import Likelihoods, draw_frames, frame_nats, measure_likelihoods
from unimodel.evaluation.memory import recall
from unimodel.evaluation.rollouts import Rollout, roll_held_out
from unimodel.evaluation.scorecard import agency, alignment, coherence, compression, emergence, persistence
from unimodel.evaluation.scorecard.finished import card_state, control_of
from unimodel.evaluation.scorecard.loops import (
    Walked,
    find_loops,
    loops_as_they_were,
    loops_standing_still,
    walk_loops,
)
from unimodel.evaluation.scorecard.predictors import (
    as_it_was,
    branches_as_they_were,
    branches_standing_still,
    standing_still,
    window_frames,
    window_only,
)
from unimodel.evaluation.scorecard.restart import restart_worlds
from unimodel.evaluation.scorecard.revisits import Answers, revisit_answers
from unimodel.evaluation.scorecard.score import COPY, MODEL, PREDICTORS, WINDOW, Definition, Score, not_measured
from unimodel.evaluation.scorecard.standing import standing
from unimodel.observe.progress import say
from unimodel.run_folder import RunFolder, read_json, write_json
from unimodel.tokenizers.action import by_agent
from unimodel.training.alignment_setup import recorded_judge
from unimodel.training.loaded_run import LoadedRun
from unimodel.world.stage import load_world

MOST_EPISODES = 40
"""Each is rolled out by two models."""


@dataclass(frozen=True, slots=True)
class Materials:
    """What the scores are of: the model and the same one with its window only, held-out episodes, what each predictor
    makes of them, and what really happened."""

    loaded: LoadedRun
    shortened: LoadedRun
    split: Split
    held_out: HeldOut
    rollouts: dict[str, list[Rollout]]
    real: list[Rollout]
    likelihoods: dict[str, Likelihoods]
    """Of the models; none where a stage reads with a memory."""
    recalled: dict[str, Answers]
    """By predictor; none without a memory, and where nobody knows what is shown again."""

    @property
    def models(self) -> dict[str, LoadedRun]:
        return {MODEL: self.loaded, WINDOW: self.shortened}

    @property
    def agents(self) -> int:
        return self.held_out.episodes[0].num_agents

    @property
    def has_memory(self) -> bool:
        return self.loaded.config.stages[self.loaded.stage].memory is not None


@torch.no_grad()
def make_card(path: Path, split: Split) -> None:
    """Judges the last finished stage of a run that steps a world on episodes of `split`, into `scorecard.json`.

    Raises FileNotFoundError when no such stage is finished, ValueError when no held-out episode is long enough.
    """
    run = RunFolder(path)
    config = run.config()
    loaded = load_world(path)
    shortened, about = window_only(loaded)
    say(f"the score card of stage {loaded.stage}; window only is {about}", log=run.log)
    held_out = load_held_out(config, run, split, loaded.bundle.vocabulary, loaded.bundle.builder.eos_id)
    held_out = replace(held_out, episodes=held_out.episodes[:MOST_EPISODES], tokens=held_out.tokens[:MOST_EPISODES])
    say(f"rolling out {len(held_out.episodes)} episodes, twice", log=run.log)
    rollouts = {MODEL: roll_held_out(loaded, held_out), WINDOW: roll_held_out(shortened, held_out)}
    rollouts[COPY] = standing_still(rollouts[MODEL])
    real, models = as_it_was(rollouts[MODEL]), {MODEL: loaded, WINDOW: shortened}
    reads_windows = config.stages[loaded.stage].memory is None
    likelihoods = {name: measure_likelihoods(one, held_out) for name, one in models.items() if reads_windows}
    recalled = _recalled(loaded, held_out)
    materials = Materials(loaded, shortened, split, held_out, rollouts, real, likelihoods, recalled)
    scores = []
    for name, part in _PARTS.items():
        say(f"measuring {name}", log=run.log)
        scores += part(materials)
    card = {
        "state": card_state(config, run, split),
        "stage": loaded.stage,
        "step": loaded.step,
        "episodes": len(held_out.episodes),
        "window_only": about,
        "predictors": list(PREDICTORS),
        "scores": [score.to_dict() for score in scores],
    }
    write_json(run.scorecard, {**card, "standing": standing(card["scores"])})


def _persistence(m: Materials) -> Iterator[Score]:
    episodes, window = {one.key: one for one in m.held_out.episodes}, window_frames(m.loaded)
    yield persistence.score_restart(restart_worlds(m.loaded, m.held_out))
    revisited = {name: revisit_answers(some, episodes, window) for name, some in m.rollouts.items()}
    yield persistence.score_revisits(revisited, revisit_answers(m.real, episodes, window), window)
    yield persistence.score_half_life(m.recalled or revisited)
    yield persistence.score_evolution(m.rollouts, episodes, window)
    if m.recalled:
        yield persistence.score_recall(m.recalled)
    else:
        why = "nobody knows what is shown again" if m.has_memory else f"stage {m.loaded.stage} has no memory"
        yield not_measured(persistence.RECALL, why)


def _recalled(loaded: LoadedRun, held_out: HeldOut) -> dict[str, Answers]:
    """By gap, of the model, with an empty memory, and of the real frame before."""
    if loaded.config.stages[loaded.stage].memory is None:
        return {}
    try:
        since = [steps_since_seen(episode)[1:] for episode in held_out.episodes]
    except ValueError as error:
        say(f"what is recalled is left out: {error}", log=loaded.run.log)
        return {}
    ours, empty = (recall(loaded, held_out.tokens, since, forgets=forgets) for forgets in (False, True))
    still = [persistence.unchanged(one, tokens.frames) for one, tokens in zip(ours, held_out.tokens, strict=True)]
    each, window = {MODEL: ours, WINDOW: empty, COPY: still}, window_frames(loaded)
    return {name: persistence.recalled_answers(some, empty, window) for name, some in each.items()}


def _agency(m: Materials) -> Iterator[Score]:
    tokenizer = m.loaded.bundle.image

    def branches() -> Score:
        states = branching_states(m.loaded, m.held_out)
        branched: dict[str, list[Branched]] = {name: step_branches(one, states) for name, one in m.models.items()}
        branched[COPY] = branches_standing_still(states, tokenizer)
        return agency.score_branches(branched, branches_as_they_were(states, tokenizer))

    yield _or_why(agency.BRANCHES, branches)
    costs = {name: _costs(m.models[name], m.held_out, m.agents, found) for name, found in m.likelihoods.items()}
    yield agency.score_information({name: alone for name, (alone, _) in costs.items()})
    yield agency.score_ranks(m.rollouts)
    yield emergence.score_social({name: np.mean(others, axis=0) for name, (_, others) in costs.items()}, m.agents)


def _costs(
    loaded: LoadedRun, held_out: HeldOut, agents: int, found: Likelihoods
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Nats [agents][episodes] of exchanging the action of each agent, and those of all others."""
    if agents == 1:
        return [found.shuffled - found.true], [np.zeros(len(found.true))]
    alone = [(agent,) for agent in range(agents)]
    others = [tuple(other for other in range(agents) if other != agent) for agent in range(agents)]
    exchanged = list(dict.fromkeys([(), *alone, *others]))
    asked = draw_frames(loaded, held_out)
    assert all(by_agent(one.episode.actions).shape[1] == agents for one in asked)
    nats = dict(zip(exchanged, frame_nats(loaded, asked, exchanged), strict=True))
    return [nats[who] - nats[()] for who in alone], [nats[who] - nats[()] for who in others]


def _emergence(m: Materials) -> Iterator[Score]:
    missions = {one.key: one.mission for one in m.held_out.episodes}
    reader = ShardReader(join(m.loaded.config.data.folder, "train"))
    trained = {str(decode_about(*reader.read(number))["mission"]) for number in range(len(reader))}
    yield emergence.score_compositions(m.rollouts, missions, trained)
    yield emergence.score_macro(m.rollouts, m.real)


def _coherence(m: Materials) -> Iterator[Score]:
    tokenizer = m.loaded.bundle.image
    yield coherence.score_drift(m.rollouts, tokenizer)

    def rules() -> Score:
        judge = recorded_judge(m.loaded.config)
        return coherence.score_rules(m.rollouts, m.real, coherence.scrambled(m.real, tokenizer), judge)

    def loops() -> Score:
        found = find_loops(m.loaded, m.held_out)
        walked: dict[str, list[Walked]] = {name: walk_loops(one, found) for name, one in m.models.items()}
        walked[COPY] = loops_standing_still(found, tokenizer)
        return coherence.score_loops(walked, loops_as_they_were(found, tokenizer))

    yield _or_why(coherence.RULES, rules)
    yield _or_why(coherence.LOOPS, loops)


def _compression(m: Materials) -> Iterator[Score]:
    yield compression.score_bits(m.likelihoods)
    carried = compression.memory_bytes(m.loaded)
    recalls = persistence.score_recall(m.recalled).way() if m.recalled else None
    if carried is None:
        yield not_measured(compression.BYTES, f"stage {m.loaded.stage} has no memory")
    else:
        frames, size = max(one.num_frames for one in m.held_out.tokens), m.held_out.tokens[0].frames[0].size
        yield compression.score_bytes(carried, size, m.loaded.bundle.vocabulary.image_size, frames, recalls)
    yield compression.score_cost(compression.time_horizon(m.loaded, m.held_out))


def _alignment(m: Materials) -> Iterator[Score]:
    run = m.loaded.run
    found = read_json(run.evaluation) if run.evaluation.exists() else {}
    rows = [*found.get("rows", []), *found.get("details", [])]
    yield alignment.score_instruction(rows)
    yield alignment.score_constraint(rows)
    yield alignment.score_return(m.rollouts)
    control = control_of(run, m.split)
    yield alignment.score_exploitation(read_json(control) if control.exists() else None)


_PARTS: dict[str, Callable[[Materials], Iterator[Score]]] = {
    "persistence": _persistence,
    "agency and social information": _agency,
    "emergence": _emergence,
    "coherence": _coherence,
    "compression": _compression,
    "alignment": _alignment,
}


def _or_why(definition: Definition, measure: Callable[[], Score]) -> Score:
    """What an environment cannot tell is not measured."""
    try:
        return measure()
    except (ValueError, MissingExtraError) as error:
        return not_measured(definition, str(error))
