"""Alignment of a masked diffusion model: which of its own pictures were better, and how much likelier they are to be.

A masked model has no exact likelihood, only a bound: with k of n tokens hidden, k uniform on 1..n,

    log p(x) >= n E_k[ 1/k sum over hidden i of log p(x_i | visible) ]          (LLaDA, arXiv 2502.09992, eq. 14)

so the mean over hidden tokens under such masks is a bound per token. UniGRPO (arXiv 2505.15809) takes it for the
log-likelihood of a policy, LLaDA 1.5 (arXiv 2505.19223) for that of DPO. The noise of the mask is in every likelihood;
it cancels in ratios and differences when all models, and here all pictures of a prompt too, share the masks. Their
sizes k are stratified: of M masks the m-th has a share of hidden tokens in (m/M, (m+1)/M].
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimodel.batch import CorruptedSequence, TokenSequence
from unimodel.layout import Role
from unimodel.objectives.masked import mask_ids
from unimodel.vocabulary import Vocabulary

SAME = 1e-6
"""Standard deviation up to which the rewards of a group are alike."""


def hide_answer(sequence: TokenSequence, vocabulary: Vocabulary, index: int) -> CorruptedSequence:
    """A prompt: everything that is to be drawn is hidden and asked for."""
    layout, modality = sequence.layout, sequence.modality()
    hidden = layout.role == Role.TARGET
    return CorruptedSequence(
        input_ids=np.where(hidden, mask_ids(modality, vocabulary), sequence.ids),
        position_ids=layout.position_ids,
        block=layout.blocks,
        stream=layout.clean,
        target=np.where(hidden, sequence.ids, layout.no_target),
        weight=hidden.astype(np.float32),
        objective=np.where(hidden, index, layout.nowhere),
        modality=modality,
    )


def draw_mask(num_tokens: int, number: int, masks: int, rng: np.random.Generator) -> np.ndarray:
    """bool [num_tokens], mask `number` of `masks`: exactly k hidden tokens, k uniform on its part of 1..num_tokens."""
    share = (number + rng.random()) / masks
    hidden = np.zeros(num_tokens, dtype=bool)
    hidden[rng.permutation(num_tokens)[: max(1, math.ceil(share * num_tokens))]] = True
    return hidden


def group_advantages(rewards: Tensor) -> Tensor:
    """[group, prompts] rewards less their mean over the group, in standard deviations of the group; 0 where all are
    alike."""
    spread = reward_spread(rewards)
    return torch.where(spread > SAME, (rewards - rewards.mean(dim=0)) / spread.clamp(min=SAME), 0.0)


def place_advantages(right: Tensor) -> Tensor:
    """[group, places] how right each place is, 0 to 1, in every picture of a group, less the mean over the group and in
    units of that mean; 0 where none is right. Its policy gradient is that of the logarithm of the chance to be right,
    as of maximum likelihood: what is hardly ever right counts most. In standard deviations the many places that are
    nearly always right would outweigh those few, and to draw nothing would be safest (docs/experiments.md)."""
    mean = right.mean(dim=0)
    return torch.where(mean > SAME, (right - mean) / mean.clamp(min=SAME), 0.0)


def reward_spread(rewards: Tensor) -> Tensor:
    """[prompts] the standard deviation of rewards [group, prompts] over each group; above SAME it has something to
    tell."""
    return (rewards - rewards.mean(dim=0)).square().mean(dim=0).sqrt()


def clipped_gain(new: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """[tokens] what PPO maximises (arXiv 1707.06347, eq. 7), from log-probabilities now and when the pictures were
    drawn, and the advantages of their pictures."""
    ratio = (new - old).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def divergence(new: Tensor, reference: Tensor) -> Tensor:
    """[tokens] KL(new || reference) in nats from log-probabilities [tokens, codes] of both, exactly: all codes count,
    not only the one that was drawn."""
    return (new.exp() * (new - reference)).sum(dim=-1)


def preference_margin(better: Tensor, worse: Tensor, better_before: Tensor, worse_before: Tensor) -> Tensor:
    """[pairs] by how many nats the better picture gained more likelihood than the worse one."""
    return (better - better_before) - (worse - worse_before)


def preference_loss(margin: Tensor, scale: float) -> Tensor:
    """[pairs] DPO's loss (arXiv 2305.18290, eq. 7)."""
    return -F.logsigmoid(scale * margin)


def preference_slope(margin: Tensor, scale: float) -> Tensor:
    """[pairs] how fast that loss falls per nat of margin."""
    return scale * torch.sigmoid(-scale * margin)
