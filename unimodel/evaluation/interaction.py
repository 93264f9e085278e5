"""Stage 3: does the model's world follow the real one, obey the action, hold together, and know its outcomes?"""

from __future__ import annotations

from unimodel.evaluation.actions_read import evaluate_actions_read
from unimodel.evaluation.branches import branch_held_out, evaluate_branches
from unimodel.evaluation.calibration import (
    evaluate_calibration,
    pair_after_own_frames,
    pair_after_real_frames,
    reliability,
)
from unimodel.evaluation.drift import evaluate_drift
from unimodel.evaluation.findings import Findings
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.horizons import evaluate_horizons
from unimodel.evaluation.likelihood import evaluate_likelihoods, measure_likelihoods
from unimodel.evaluation.other_actions import evaluate_other_actions, roll_other_actions
from unimodel.evaluation.rollouts import roll_held_out
from unimodel.evaluation.society import evaluate_society
from unimodel.observe.progress import say
from unimodel.training.loaded_run import LoadedRun


def evaluate_interaction(loaded: LoadedRun, held_out: HeldOut, findings: Findings) -> None:
    """Adds what docs/evaluation.md tells of stepping a world. Rollouts and branches are made once for all figures.

    Raises ValueError when no held-out episode is long enough.
    """
    stage = loaded.stage
    rollouts = roll_held_out(loaded, held_out)
    rows, details, curves = evaluate_horizons(rollouts, loaded.config.evaluation.horizons, stage)
    findings.add(rows, details, curves)
    _add_branches(findings, loaded, held_out)
    # With a memory the past is more than what stands in a row: `evaluate_memory` reads it.
    reads_windows = loaded.config.stages[stage].memory is None
    if reads_windows:
        findings.add(*evaluate_likelihoods(measure_likelihoods(loaded, held_out), stage))
    findings.add(*evaluate_society(loaded, held_out))
    findings.add(evaluate_other_actions(rollouts, roll_other_actions(loaded, held_out), stage))
    details, curves = evaluate_drift(rollouts, loaded.bundle.image, stage)
    findings.add([], details, curves)
    pairs = {"own": pair_after_own_frames(rollouts)}
    if reads_windows:
        pairs["real"] = pair_after_real_frames(loaded, held_out.tokens)
    for after, some in pairs.items():
        findings.add([], evaluate_calibration(some, after, stage))
        findings.reliability[after] = reliability(some)


def _add_branches(findings: Findings, loaded: LoadedRun, held_out: HeldOut) -> None:
    """What needs the environment: from one real state, every action."""
    try:
        branched = branch_held_out(loaded, held_out)
    except ValueError as error:
        say(f"counterfactual actions are left out: {error}", log=loaded.run.log)
        return
    if not branched:
        say("counterfactual actions are left out: in no state drawn do two actions differ", log=loaded.run.log)
        return
    rows, details, findings.branches = evaluate_branches(branched, loaded.stage)
    findings.add(rows, details)
    if "actions" in loaded.config.stages[loaded.stage].skills and loaded.bundle.knows_real_actions:
        findings.add(*evaluate_actions_read(loaded, branched))
