"""`unimodel eval`: every stage's figures on held-out episodes, each beside a baseline, kept in the run folder."""

from __future__ import annotations

from pathlib import Path

import torch

from unimodel.config import RunConfig
from unimodel.evaluation.findings import Findings
from unimodel.evaluation.finished import evaluation_state
from unimodel.evaluation.held_out import HeldOut, Split, load_held_out
from unimodel.evaluation.interaction import evaluate_interaction
from unimodel.evaluation.latent_actions import evaluate_latent_actions
from unimodel.evaluation.laws import evaluate_laws
from unimodel.evaluation.memory import evaluate_memory
from unimodel.evaluation.representation import (
    evaluate_actions,
    evaluate_image_to_text,
    evaluate_masked,
    evaluate_text_to_image,
    evaluate_tokenizer,
)
from unimodel.evaluation.unseen import evaluate_unseen
from unimodel.observe.progress import say
from unimodel.run_folder import RunFolder, write_json
from unimodel.tokenizers.prepare import load_run_bundle
from unimodel.training.finished import last_finished_stage
from unimodel.training.loaded_run import load_run


@torch.no_grad()
def evaluate(path: Path, split: Split) -> None:
    """Evaluates every finished stage of a run on the episodes of `split` into `evaluation.json` and `summary.json`.

    Raises FileNotFoundError when no stage is finished.
    """
    run = RunFolder(path)
    config = run.config()
    last_finished_stage(config, run)
    state = evaluation_state(config, run, split)
    bundle = load_run_bundle(run)
    held_out = load_held_out(config, run, split, bundle.vocabulary, bundle.builder.eos_id)
    findings = Findings()
    rows, codebook = evaluate_tokenizer(bundle.image, held_out)
    findings.add(rows)
    if bundle.latent_action is not None:
        findings.add(*evaluate_latent_actions(bundle.latent_action, held_out))
    for stage, skills in _last_taught(config, state["stages"]).items():
        _evaluate_stage(path, stage, skills, held_out, findings)
    for source, stage in _last_remembered(config, state["stages"]).items():
        others = load_held_out(config, run, split, bundle.vocabulary, bundle.builder.eos_id, source)
        evaluate_memory(load_run(path, stage), others, findings, source)
    results = findings.to_dict()
    about = {"state": state, "weights": "moving average", "codebook": codebook}
    write_json(run.evaluation, {**about, **results})
    write_json(run.summary, results["rows"])


def _last_taught(config: RunConfig, finished: dict[str, int]) -> dict[str, set[str]]:
    """Stage -> the skills that no later finished stage goes on teaching.

    A skill is judged on the newest weights that were still trained for it: a model that forgot must not hide behind an
    older checkpoint, and one that was taught something else since is not expected to remember.
    """
    last = {skill: stage for stage in finished for skill in config.stages[stage].skills}
    return {stage: {skill for skill, at in last.items() if at == stage} for stage in finished if stage in last.values()}


def _last_remembered(config: RunConfig, finished: dict[str, int]) -> dict[str, str]:
    """Recorded source beside the episodes -> the last finished stage that was to remember it."""
    sources = {name for name, source in config.data.sources.items() if source.recording is not None}
    stages = [(stage, config.stages[stage]) for stage in finished if config.stages[stage].memory is not None]
    kept = [(entry, stage) for stage, settings in stages for entry in settings.mixture if entry.source in sources]
    return {entry.source: stage for entry, stage in kept if entry.sequence == "interaction"}


def _evaluate_stage(path: Path, stage: str, skills: set[str], held_out: HeldOut, findings: Findings) -> None:
    """Adds the figures of `skills` with the weights at the end of `stage`."""
    loaded = load_run(path, stage)
    say(f"evaluating stage {stage}", log=loaded.run.log)
    if "clip" in skills:
        findings.add(evaluate_masked(loaded, held_out))
    if "actions" in skills:
        findings.add(evaluate_actions(loaded, held_out))
    if "text_to_image" in skills:
        findings.add([evaluate_text_to_image(loaded, held_out)])
        findings.add(*evaluate_laws(loaded, held_out))
    if "image_to_text" in skills:
        findings.add([evaluate_image_to_text(loaded, held_out)])
    if "interaction" in skills:
        evaluate_interaction(loaded, held_out, findings)
        if loaded.config.stages[stage].memory is not None:
            evaluate_memory(loaded, held_out, findings)
            evaluate_unseen(loaded, held_out, findings)
