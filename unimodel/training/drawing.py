"""Pictures for the prompts of a packed batch, drawn where they stand: parallel decoding (`unimodel/sampling/fill.py`)
of all rows at once, through the engine that is being trained.

What is drawn follows from the seed and the prompt alone: it does not matter which row or rank has it. All ranks make
the same number of passes, whatever their rows hold: under ZeRO 3 every pass gathers weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data_pipelines.stream.randomness import keyed_generator
from unimodel.batch import PackedBatch
from unimodel.config_objectives import DrawingConfig
from unimodel.layout import NO_TARGET
from unimodel.vocabulary import Modality, Vocabulary

Model = Callable[[PackedBatch], Tensor]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One of a batch: its text without delimiters, the name of all that is drawn for it, and its places among those of
    all prompts, which are counted in row-major order."""

    text: np.ndarray
    name: str
    places: slice

    @property
    def num_tokens(self) -> int:
        return self.places.stop - self.places.start


@dataclass(frozen=True, slots=True)
class Prompts:
    """Those of this rank's `batch`, in which everything that is to be drawn is hidden and a target."""

    batch: PackedBatch
    each: tuple[Prompt, ...]
    rows: Tensor
    """[places]"""
    columns: Tensor
    """[places]"""

    @property
    def owner(self) -> Tensor:
        """int64 [places]: the number of the prompt that each is of."""
        sizes = torch.tensor([prompt.num_tokens for prompt in self.each], dtype=torch.long, device=self.rows.device)
        return torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)

    def with_ids(self, ids: Tensor, hidden: Tensor, asked: Tensor, mask_id: int) -> PackedBatch:
        """The batch with `ids` [places] drawn, less those that are `hidden`, of which those `asked` are targets; both
        bool [places]."""
        input_ids, target = self.batch.input_ids.clone(), torch.full_like(self.batch.target, NO_TARGET)
        input_ids[self.rows, self.columns] = torch.where(hidden, mask_id, ids)
        target[self.rows, self.columns] = torch.where(asked, ids, NO_TARGET)
        return replace(self.batch, input_ids=input_ids, target=target)


def find_prompts(batch: PackedBatch, special_text: tuple[int, ...]) -> Prompts:
    """`special_text` are the ids that delimit a text."""
    rows, columns = (batch.target != NO_TARGET).nonzero(as_tuple=True)
    ids, document, modality = (part.cpu().numpy() for part in (batch.input_ids, batch.document, batch.modality))
    of_place = np.stack([rows.cpu().numpy(), document[rows.cpu().numpy(), columns.cpu().numpy()]], axis=1)
    each, start = [], 0
    for stop in [*(np.flatnonzero((of_place[1:] != of_place[:-1]).any(axis=1)) + 1).tolist(), len(of_place)]:
        if stop == start:
            continue
        row, number = of_place[start]
        here = document[row] == number
        text = ids[row, here & (modality[row] == Modality.TEXT)]
        name = hashlib.blake2b(ids[row, here].tobytes(), digest_size=16).hexdigest()
        each.append(Prompt(text[~np.isin(text, special_text)], name, slice(start, stop)))
        start = stop
    return Prompts(batch, tuple(each), rows, columns)


@torch.no_grad()
def draw_pictures(
    model: Model,
    prompts: Prompts,
    settings: DrawingConfig,
    vocabulary: Vocabulary,
    micro_rows: int,
    seed: tuple[int | str, ...],
    first: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """[places] ids of a picture for every prompt, and the pass in which each was kept. `first` are the logits of
    `first_pass`, where that has been read."""
    image, mask_id = vocabulary.range_of(Modality.IMAGE), vocabulary.mask(Modality.IMAGE)
    rngs = [keyed_generator(*seed, "drawing", prompt.name) for prompt in prompts.each]
    ids = torch.full_like(prompts.rows, mask_id)
    kept = torch.full_like(ids, settings.steps)
    asked = torch.ones_like(ids, dtype=torch.bool)
    for step in range(settings.steps):
        if step or first is None:
            logits = in_parts(model, prompts.with_ids(ids, asked, asked, mask_id), micro_rows, image)
        else:
            logits = first
        log_chances = logits.double().log_softmax(dim=-1)
        scaled = (log_chances / settings.temperature).softmax(dim=-1).cumsum(dim=-1)
        # Drawn for every place, asked or not, so that what one prompt gets hangs on nothing but its own generator.
        numbers = [rng.random((2, prompt.num_tokens)) for rng, prompt in zip(rngs, prompts.each, strict=True)]
        uniform, noise = torch.from_numpy(np.concatenate([np.zeros((2, 0)), *numbers], axis=1)).to(ids.device)
        code = torch.searchsorted(scaled, uniform[asked][:, None] * scaled[:, -1:], right=True)
        code = code.clamp(max=len(image) - 1)
        ids[asked] = image.start + code.squeeze(1)
        falling = settings.choice_temperature * (1 - (step + 1) / settings.steps)
        sureness = torch.full_like(uniform, math.inf)
        gumbel = -(-noise[asked].clamp(min=1e-300).log()).log()
        sureness[asked] = log_chances.gather(1, code).squeeze(1) + falling * gumbel
        left = math.cos(math.pi / 2 * (step + 1) / settings.steps) if step + 1 < settings.steps else 0.0
        kept[asked] = step
        for prompt in prompts.each:
            asked[prompt.places] = _least_sure(sureness[prompt.places], math.floor(left * prompt.num_tokens))
    return ids, kept


@torch.no_grad()
def first_pass(model: Model, prompts: Prompts, vocabulary: Vocabulary, micro_rows: int) -> Tensor:
    """[places, codes] fp32 logits of a picture of which nothing stands yet: the same for every picture of a prompt."""
    nothing = torch.ones_like(prompts.rows, dtype=torch.bool)
    batch = prompts.with_ids(prompts.rows, nothing, nothing, vocabulary.mask(Modality.IMAGE))
    return in_parts(model, batch, micro_rows, vocabulary.range_of(Modality.IMAGE))


def in_parts(model: Model, batch: PackedBatch, micro_rows: int, ids: range) -> Tensor:
    """[targets, ids] fp32 logits of a batch that is read `micro_rows` rows at a time."""
    parts = [batch.rows(row, row + micro_rows) for row in range(0, len(batch.input_ids), micro_rows)]
    return torch.cat([logits_of(model, part, ids)[0] for part in parts])


def logits_of(model: Model, batch: PackedBatch, ids: range) -> tuple[Tensor, Tensor]:
    """[targets, ids] fp32 logits, and a 0 that hangs on the model's answer: without a target, too, every rank must take
    part in backward."""
    logits = model(batch)
    targets = int((batch.target != NO_TARGET).sum())
    return logits[:targets, ids.start : ids.stop].float(), logits.float().sum() * 0.0


def _least_sure(sureness: Tensor, count: int) -> Tensor:
    """bool: the `count` places that are least sure; never one that was kept before, whose sureness is infinite."""
    result = torch.zeros_like(sureness, dtype=torch.bool)
    result[sureness.argsort(stable=True)[: min(count, int(sureness.isfinite().sum()))]] = True
    return result
