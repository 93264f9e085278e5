"""A step of an alignment stage: draw pictures of every prompt, have them judged, make the better ones likelier.

    pictures = draw(prompts)             a group of each, through the engine, with the weights as they are
    rewards = judge(prompts, pictures)   the real environment, or whoever else knows
    masks, loss, backward, update        grpo: gains by advantage; dpo: the best against the worst

A step begins and ends with nothing in hand, so a run that was killed goes on from its checkpoint as after any other
step. The model before the stage stays beside the one that is trained, whole on every rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from unimodel.batch import PackedBatch
from unimodel.config import StageConfig
from unimodel.config_objectives import AlignmentConfig
from unimodel.objectives.alignment import SAME, group_advantages, place_advantages, reward_spread
from unimodel.training.alignment_update import AlignmentUpdate, Outcome, Pictures
from unimodel.training.device_memory import PASSES, memory_for
from unimodel.training.drawing import Model, Prompts, draw_pictures, find_prompts, first_pass
from unimodel.training.step import StepOutcome, StepReport
from unimodel.vocabulary import Modality, Vocabulary


@dataclass(frozen=True, slots=True)
class Scores:
    """Of n pictures: their rewards, whether they are exactly right, and how many laws they break, each float64 [n]; and
    how much is right of what every token of a picture stands for, float64 [tokens] from 0 to 1, one for each of n."""

    rewards: np.ndarray
    right: np.ndarray
    violations: np.ndarray
    places: Sequence[np.ndarray]


Judge = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], Scores]
"""Of texts (ids without delimiters) and the codes of a picture of each."""


class Aligner:
    """Aligns what `engine` trains; `reference` is the model before the stage, `delimiters` are the ids around texts."""

    def __init__(
        self,
        engine: Any,
        reference: Model,
        stage: StageConfig,
        vocabulary: Vocabulary,
        delimiters: tuple[int, ...],
        judge: Judge,
        seed: tuple[int | str, ...],
    ) -> None:
        assert stage.alignment is not None, "no alignment stage"
        self._settings: AlignmentConfig = stage.alignment
        self._engine, self._reference, self._stage, self._judge = engine, reference, stage, judge
        self._vocabulary, self._delimiters, self._seed = vocabulary, delimiters, seed

    @memory_for(PASSES)
    def step(self, batch: PackedBatch, stage_step: int, tell: tuple[float, ...] = ()) -> StepOutcome:
        """Step number `stage_step` on this rank's `batch` [rows per rank, length] of prompts; what it has to `tell`
        crosses as in `train_step`. The stage ends where the model has gone too far. Collective."""
        settings, seed = self._settings, (*self._seed, stage_step)
        prompts = find_prompts(batch, self._delimiters)
        micro_rows = len(batch.input_ids) // self._stage.batch.accumulation
        drawn, kept = self._draw(prompts, micro_rows, seed)
        scores = self._score(prompts, drawn)
        rewards = torch.from_numpy(scores.rewards).to(drawn.device)
        tells = reward_spread(rewards) > SAME
        counts = [batch.num_tokens, batch.target.numel(), len(prompts.each), int(tells.sum())]
        sums = [float(part.sum()) for part in (scores.rewards, scores.right, scores.violations)]
        shared = torch.tensor([*counts, *sums, *tell], dtype=torch.float64, device=drawn.device)
        dist.all_reduce(shared)
        tokens, places, num_prompts, num_telling, reward, right, violations, *told = shared.tolist()

        update = AlignmentUpdate(self._engine, self._reference, settings, self._vocabulary, prompts, micro_rows)
        if settings.kind == "grpo":
            pictures = Pictures(drawn, kept, self._advantages(prompts, scores, rewards))
            outcomes = self._climb(update, pictures, seed, num_prompts)
        else:
            pictures = best_and_worst(prompts, drawn, kept, rewards)
            outcomes = self._prefer(update, pictures, seed, num_telling)
        count = max(1.0, num_prompts * settings.group)
        figures = {
            "reward": reward / count,
            "success": right / count,
            "violations_per_1000": 1000 * violations / count,
            "telling_fraction": num_telling / max(1.0, num_prompts),
            "kl": outcomes[-1].kl,
        }
        read = tokens * self._stage.passes_per_update * len(outcomes)
        report = self._report(outcomes[-1], int(read), 1 - tokens / places, tuple(told))
        return StepOutcome(report, sum(one.has_moved for one in outcomes), figures, outcomes[-1].is_far)

    def _draw(self, prompts: Prompts, micro_rows: int, seed: tuple[int | str, ...]) -> tuple[Tensor, Tensor]:
        """[group, places] ids, and the pass in which each was kept."""
        engine, vocabulary, drawing = self._engine, self._vocabulary, self._settings.drawing
        first = first_pass(engine, prompts, vocabulary, micro_rows)
        pictures = [
            draw_pictures(engine, prompts, drawing, vocabulary, micro_rows, (*seed, "picture", number), first)
            for number in range(self._settings.group)
        ]
        ids, kept = zip(*pictures, strict=True)
        return torch.stack(ids), torch.stack(kept)

    def _score(self, prompts: Prompts, drawn: Tensor) -> Scores:
        """Each [group, prompts], but `places`, which are those of one picture after the other."""
        codes = self._vocabulary.codes(Modality.IMAGE, drawn.cpu().numpy())
        texts = [prompt.text for prompt in prompts.each] * len(drawn)
        scores = self._judge(texts, [picture[prompt.places] for picture in codes for prompt in prompts.each])
        shape = (len(drawn), len(prompts.each))
        rewards, right, violations = (p.reshape(shape) for p in (scores.rewards, scores.right, scores.violations))
        return Scores(rewards, right, violations, scores.places)

    def _advantages(self, prompts: Prompts, scores: Scores, rewards: Tensor) -> Tensor:
        """float32 [group, places]"""
        if self._settings.credit == "place":
            right = np.concatenate([np.zeros(0), *scores.places]).reshape(len(rewards), len(prompts.rows))
            return place_advantages(torch.from_numpy(right).to(rewards.device)).float()
        return group_advantages(rewards).float()[:, prompts.owner]

    def _climb(
        self, update: AlignmentUpdate, pictures: Pictures, seed: tuple[int | str, ...], num_prompts: float
    ) -> list[Outcome]:
        """Updates by policy gradient, until one does not move the weights."""
        reads = [update.draw_reads(pictures, (*seed, number)) for number in range(self._settings.updates)]
        # Of the first update, how likely the pictures were is how likely they are.
        before = [update.log_likelihoods(pictures, some) if number else () for number, some in enumerate(reads)]
        outcomes: list[Outcome] = []
        for some, old in zip(reads, before, strict=True):
            outcomes.append(update.climb(pictures, some, old, num_prompts))
            if not outcomes[-1].has_moved:
                break
        return outcomes

    def _prefer(
        self, update: AlignmentUpdate, pictures: Pictures, seed: tuple[int | str, ...], num_pairs: float
    ) -> list[Outcome]:
        """Updates by preference, until one does not move the weights."""
        outcomes: list[Outcome] = []
        for number in range(self._settings.updates):
            outcomes.append(update.prefer(pictures, update.draw_reads(pictures, (*seed, number)), num_pairs))
            if not outcomes[-1].has_moved:
                break
        return outcomes

    def _report(self, outcome: Outcome, tokens: int, padding_fraction: float, told: tuple[float, ...]) -> StepReport:
        norm = self._engine.get_global_grad_norm()
        (name,) = self._stage.objectives
        return StepReport(
            loss=outcome.loss * self._settings.coefficient,
            skipped=outcome.skipped,
            objective_losses={name: outcome.loss},
            modality_nats={Modality.IMAGE.label: outcome.nats},
            modality_accuracy={},
            targets=outcome.targets,
            tokens=tokens,
            padding_fraction=padding_fraction,
            gradient_norm=None if norm is None or not math.isfinite(norm) else float(norm),
            told=told,
        )


def best_and_worst(prompts: Prompts, drawn: Tensor, kept: Tensor, rewards: Tensor) -> Pictures:
    """Of pictures [group, places] with `rewards` [group, prompts], the best and the worst of every prompt; worth
    nothing where all are alike."""
    chosen = torch.stack([rewards.argmax(dim=0), rewards.argmin(dim=0)])[:, prompts.owner]
    tells = (reward_spread(rewards) > SAME).float()[prompts.owner]
    return Pictures(drawn.gather(0, chosen), kept.gather(0, chosen), torch.stack([tells, -tells]))
