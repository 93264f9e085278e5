"""What went on while nobody looked: a memory beside the same one that stands still meanwhile.

Only in the world of hidden balls is it known what moves and when it is out of sight. Held-out episodes are read segment
by segment, every frame asked for after the real ones before it; judged are looks at a place that was last in the
picture before a whole segment that showed nothing of what moves, where it has changed since.

    hidden evolution    share of these looks in which everything that ever moves there is shown as it is now

All at once, and where nothing is as well: whoever shows a thing wherever it may be is wrong, and so is an empty place.

The frozen memory is not written by segments that show nothing of what moves: it knows how things were, and is not told
that time has passed. What knows nothing at all is the same model with an empty memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_pipelines.sources import balls
from data_pipelines.sources.episode import Episode
from data_pipelines.sources.revisits import revisits
from data_pipelines.sources.since_seen import shows_rails
from unimodel.backbone.model import Backbone
from unimodel.batch import PackedBatch, pack
from unimodel.evaluation.findings import Findings
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.intervals import over_episodes, ratio
from unimodel.evaluation.memory import EMPTY, EPISODES_AT_ONCE, right_codes, segments_of
from unimodel.evaluation.table import Row
from unimodel.memory.memory import Memory
from unimodel.memory.state import choose
from unimodel.objectives.segments import join_segments
from unimodel.tokenizers.unified import TokenisedEpisode
from unimodel.training.loaded_run import LoadedRun

HIDDEN = "hidden evolution"
FROZEN = "the same memory, which stands still while nothing is seen"
ENOUGH = 20
"""Looks that say something."""


class Asked(NamedTuple):
    """Of an episode of T steps: bool [T] looks at what changed unseen, bool [T, codes] what ever moves in the picture
    from there, and bool [segments] which segments show anything of it."""

    looks: np.ndarray
    moving: np.ndarray
    sees: np.ndarray


def evaluate_unseen(loaded: LoadedRun, held_out: HeldOut, findings: Findings) -> None:
    """Adds the figures above for a stage with a memory, of held-out episodes of hidden balls; of others nothing."""
    settings = loaded.config.stages[loaded.stage].memory
    memory = loaded.backbone.memory
    if settings is None or not isinstance(memory, Memory) or not memory.mechanisms:
        return
    if any(episode.environment not in balls.ENVIRONMENTS for episode in held_out.episodes):
        return
    asked = [
        ask_unseen(*pair, settings.segment_frames) for pair in zip(held_out.episodes, held_out.tokens, strict=True)
    ]
    counts = np.array([float(one.looks.sum()) for one in asked])
    if counts.sum() < ENOUGH:
        return
    writing = {"ours": np.ones_like, "frozen": np.copy, "empty": np.zeros_like}
    right = {
        name: np.array(right_unseen(loaded, held_out.tokens, asked, [writes(one.sees) for one in asked]), dtype=float)
        for name, writes in writing.items()
    }
    kept = counts > 0
    share = {name: over_episodes(ratio, some[kept], counts[kept]) for name, some in right.items()}
    rise = over_episodes(ratio, (right["ours"] - right["frozen"])[kept], counts[kept])
    samples, stage, model = int(counts.sum()), loaded.stage, share["ours"]
    findings.add(
        [Row(HIDDEN, stage, model.value, share["frozen"].value, FROZEN, samples, interval=model.interval)],
        [
            Row(f"{HIDDEN}, rise over a frozen memory", stage, rise.value, 0.0, "", samples, interval=rise.interval),
            Row(f"{HIDDEN}, window alone", stage, model.value, share["empty"].value, EMPTY, samples),
        ],
    )


def ask_unseen(episode: Episode, tokens: TokenisedEpisode, segment_frames: int) -> Asked:
    """What of an episode changed while whole segments showed nothing of what moves."""
    shows, last = shows_rails(episode), episode.num_steps
    starts = range(0, last, segment_frames)
    sees = np.array([shows[first : first + segment_frames + 1].any() for first in starts], dtype=bool)
    blind = [first for first, some in zip(starts, sees, strict=True) if not some]
    codes = tokens.frames.reshape(last + 1, -1)
    looks, moving = np.zeros(last, dtype=bool), np.zeros((last, codes.shape[1]), dtype=bool)
    for before, now in revisits(episode.poses, 0).tolist():
        if not shows[now]:
            continue
        from_here = codes[(episode.poses == episode.poses[now]).all(axis=1)]
        moving[now - 1] = (from_here != from_here[0]).any(axis=0)
        is_unseen = any(before < first and first + segment_frames < now for first in blind)
        looks[now - 1] = is_unseen and (codes[before] != codes[now]).any()
    return Asked(looks, moving, sees)


@torch.no_grad()
def right_unseen(
    loaded: LoadedRun, episodes: Sequence[TokenisedEpisode], asked: Sequence[Asked], writes: Sequence[np.ndarray]
) -> list[int]:
    """Of every episode, how many looks are right, when the segments write that bool `writes` [episodes][segments]
    tells."""
    settings = loaded.config.stages[loaded.stage].memory
    assert settings is not None
    length, right = settings.segment_tokens, []
    for begin in range(0, len(episodes), EPISODES_AT_ONCE):
        some = slice(begin, begin + EPISODES_AT_ONCE)
        rows = [join_segments(segments_of(one, loaded.bundle.builder, settings), length) for one in episodes[some]]
        most = length * max(map(len, writes[some]))
        batch = pack([[row] for row in rows], most, loaded.bundle.pad_id).to(loaded.device)
        hidden = hidden_where_written(loaded.backbone, batch, writes[some])
        for row, one in enumerate(asked[some]):
            shown = right_codes(loaded, hidden[row], batch.target[row]).reshape(one.moving.shape)
            is_right = np.logical_or(shown, ~one.moving)
            right.append(int(is_right[one.looks].all(axis=1).sum()))
    return right


def hidden_where_written(backbone: Backbone, batch: PackedBatch, writes: Sequence[np.ndarray]) -> Tensor:
    """[rows, length, dim] as the memory's `hidden`, of rows of one episode each, where only some segments write."""
    memory = backbone.memory
    assert isinstance(memory, Memory)
    state, outputs = memory.init(len(writes), batch.input_ids.device), []
    for number, begin in enumerate(range(0, batch.input_ids.shape[1], memory.segment_tokens)):
        part = batch.columns(begin, begin + memory.segment_tokens)
        segment, hidden = memory.pass_segment(backbone, part, state)
        written = [number < len(some) and bool(some[number]) for some in writes]
        state = choose(torch.tensor(written, device=hidden.device), memory.write(segment, state), state)
        outputs.append(hidden)
    return torch.cat(outputs, dim=1)
