"""What a model still knows of what it saw long ago, by how long ago that was.

Held-out episodes are read segment by segment, as a live world reads them; every frame is asked for after the real ones
before it. Of frames that show what was to be seen before, `steps_since_seen` tells how long ago.

    recalled tokens     of the tokens of such frames, the share that is right
    recalled outcomes   where what was seen tells the reward at an episode's end: the share told right, of none and any
    half-life           the shortest gap, in windows, from which on less than half of what can be recalled is:
                        (accuracy - that of an empty memory) / (1 - that of an empty memory) < 0.5

Beside them stands the same model with an empty memory in every segment: its window alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data_pipelines.sources.since_seen import steps_since_seen
from unimodel.batch import CorruptedSequence, pack
from unimodel.config import EPISODES
from unimodel.config_memory import MemoryConfig
from unimodel.evaluation.curves import MODEL, Curve, Line
from unimodel.evaluation.findings import Findings
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.intervals import over_episodes, ratio
from unimodel.evaluation.table import Estimate, Row
from unimodel.objectives.asked import ask_everything
from unimodel.objectives.segments import join_segments
from unimodel.observe.progress import say
from unimodel.tokenizers.action import REWARD_BINS, reward_values
from unimodel.tokenizers.unified import SequenceBuilder, TokenisedEpisode
from unimodel.training.loaded_run import LoadedRun
from unimodel.vocabulary import Modality

EPISODES_AT_ONCE = 4
EMPTY = "the same model with an empty memory"
GAPS_WINDOWS = (1, 2, 4, 6, 8, 10, 12, 16, 24, 32, 64, 128)
"""Ends of the groups of gaps, in windows."""
ENOUGH = 20
"""Frames in a group that say something."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """What an episode of T steps shows again: of frame t + 1, `since` [T] steps, 0 where nothing, and of `codes` those
    that are `right` [T]; of its last step, whether there was a reward, and whether one was told, likelier than none."""

    since: np.ndarray
    right: np.ndarray
    codes: int
    is_rewarded: bool
    is_told: bool

    def at_its_end(self) -> Recalled:
        """Only what the last frame shows again."""
        return replace(self, since=np.where(np.arange(len(self.since)) == len(self.since) - 1, self.since, 0))


Ask = Callable[[Recalled, np.ndarray], tuple[float, float]]
"""Right answers and questions of an episode, at the steps bool [T]."""


def evaluate_memory(loaded: LoadedRun, held_out: HeldOut, findings: Findings, source: str = EPISODES) -> None:
    """Adds the figures above for a stage with a memory, of the held-out episodes of a source."""
    memory = loaded.config.stages[loaded.stage].memory
    assert memory is not None
    try:
        since = [steps_since_seen(episode)[1:] for episode in held_out.episodes]
    except ValueError as error:
        say(f"what is recalled is left out: {error}", log=loaded.run.log)
        return
    window = memory.segment_frames
    if not any((gaps > window).any() for gaps in since):
        say("what is recalled is left out: no held-out episode shows again what it showed long ago", log=loaded.run.log)
        return
    ours, empty = (recall(loaded, held_out.tokens, since, forgets=forgets) for forgets in (False, True))
    of = loaded.stage if source == EPISODES else f"{loaded.stage} ({source})"
    found = recall_figures(ours, empty, window, of)
    findings.add(found.rows, found.details, found.curves)


def recall_figures(ours: Sequence[Recalled], empty: Sequence[Recalled], window: int, stage: str) -> Findings:
    """Rows of the table, of the details, and curves by gap."""
    findings = Findings()
    _judge("recalled tokens", _tokens, ours, empty, window, stage, findings)
    if _tell_apart(ours, window):
        at_end, empty_at_end = ([one.at_its_end() for one in some] for some in (ours, empty))
        _judge("recalled outcomes", _outcomes, at_end, empty_at_end, window, stage, findings)
    return findings


def _judge(
    metric: str,
    ask: Ask,
    ours: Sequence[Recalled],
    empty: Sequence[Recalled],
    window: int,
    stage: str,
    findings: Findings,
) -> None:
    """Adds the figures of one question."""
    curve, groups = _curve(metric, ask, ours, empty, window)
    if not curve.steps:
        return
    if not any(low >= window for low, _ in groups):
        findings.add([], [], [curve])
        return
    rows = []
    spans = {"beyond the window": (window, np.inf), "10 windows ago and more": (10 * window, np.inf)}
    for name, (low, high) in spans.items():
        if samples := sum(_asked(one, low, high).sum() for one in ours):
            model, baseline = (_share(ask, some, low, high) for some in (ours, empty))
            row = Row(f"{metric}, {name}", stage, model.value, baseline.value, EMPTY, int(samples))
            rows.append(replace(row, interval=model.interval))
    findings.add(rows, [_half_life(metric, curve, window, stage)], [curve])


@torch.no_grad()
def recall(
    loaded: LoadedRun, episodes: Sequence[TokenisedEpisode], since: Sequence[np.ndarray], *, forgets: bool
) -> list[Recalled]:
    """Every episode read through; one that `forgets` has an empty memory in every segment."""
    memory = loaded.config.stages[loaded.stage].memory
    assert memory is not None
    recalled: list[Recalled] = []
    for first in range(0, len(episodes), EPISODES_AT_ONCE):
        some = slice(first, first + EPISODES_AT_ONCE)
        asked = [segments_of(episode, loaded.bundle.builder, memory) for episode in episodes[some]]
        most = max(map(len, asked)) * memory.segment_tokens
        padded = [[join_segments([segment], memory.segment_tokens) for segment in segments] for segments in asked]
        rows = padded if forgets else [[join_segments(segments, memory.segment_tokens)] for segments in asked]
        batch = pack(rows, most, loaded.bundle.pad_id).to(loaded.device)
        hidden = loaded.backbone.hidden(batch)
        rewards = loaded.bundle.vocabulary.range_of(Modality.REWARD)
        for row, (episode, gaps) in enumerate(zip(episodes[some], since[some], strict=True)):
            target = batch.target[row]
            right = right_codes(loaded, hidden[row], target).reshape(episode.num_frames - 1, -1).sum(1)
            is_reward = (target >= rewards.start) & (target < rewards.stop)
            chances = loaded.backbone.logits(hidden[row, is_reward], rewards).softmax(-1).double().cpu().numpy()
            none = chances[:, reward_values(np.arange(REWARD_BINS)) == 0].sum(1)
            is_rewarded = bool((np.nan_to_num(episode.rewards[-1:]) != 0).any())
            is_told = bool((none[-1:] < 0.5).any())
            recalled.append(Recalled(gaps, right, episode.frames[0].size, is_rewarded, is_told))
    return recalled


def right_codes(loaded: LoadedRun, hidden: Tensor, target: Tensor) -> np.ndarray:
    """bool [codes asked for] which codes of pictures a row of hidden states [length, dim] tells right."""
    images = loaded.bundle.vocabulary.range_of(Modality.IMAGE)
    is_code = (target >= images.start) & (target < images.stop)
    told = loaded.backbone.logits(hidden[is_code], images).argmax(-1) + images.start
    return (told == target[is_code]).cpu().numpy()


def segments_of(episode: TokenisedEpisode, builder: SequenceBuilder, memory: MemoryConfig) -> list[CorruptedSequence]:
    """The whole episode, everything asked for."""
    starts = range(0, episode.num_frames - 1, memory.segment_frames)
    windows = (builder.interaction(episode, first, memory.segment_frames + 1) for first in starts)
    return [ask_everything(window, builder.vocabulary) for window in windows]


def _tokens(one: Recalled, asked: np.ndarray) -> tuple[float, float]:
    return float(one.right[asked].sum()), float(one.codes * asked.sum())


def _outcomes(one: Recalled, asked: np.ndarray) -> tuple[float, float]:
    is_asked = bool(asked[-1:].any())
    return float(is_asked and one.is_told == one.is_rewarded), float(is_asked)


def _tell_apart(recalled: Sequence[Recalled], window: int) -> bool:
    """Whether episodes that end with something to be recalled are some rewarded and some not."""
    return len({one.is_rewarded for one in recalled if (one.since[-1:] > window).any()}) == 2


def _asked(one: Recalled, low: float, high: float) -> np.ndarray:
    """bool [T]: gaps in (low, high] steps."""
    return (one.since > low) & (one.since <= high)


def _share(ask: Ask, recalled: Sequence[Recalled], low: float, high: float) -> Estimate:
    answers = np.array([ask(one, _asked(one, low, high)) for one in recalled])
    answers = answers[answers[:, 1] > 0]
    return over_episodes(ratio, answers[:, 0], answers[:, 1])


def _curve(
    metric: str, ask: Ask, ours: Sequence[Recalled], empty: Sequence[Recalled], window: int
) -> tuple[Curve, list[tuple[int, int]]]:
    """By the longest gap of each group, in steps."""
    ends = [0, *(window * windows for windows in GAPS_WINDOWS)]
    groups = list(zip(ends, ends[1:], strict=False))
    samples = [int(sum(_asked(one, *group).sum() for one in ours)) for group in groups]
    kept = [(group, count) for group, count in zip(groups, samples, strict=True) if count >= ENOUGH]
    lines = [
        Line(name, [_share(ask, some, *group) for group, _ in kept]) for name, some in ((MODEL, ours), (EMPTY, empty))
    ]
    steps, counts = [high for (_, high), _ in kept], [count for _, count in kept]
    curve = Curve(metric.capitalize(), "", steps, counts, lines, along="steps since they were seen")
    return curve, [group for group, _ in kept]


def _half_life(metric: str, curve: Curve, window: int, stage: str) -> Row:
    """In windows; the longest gap that there is where it is not reached."""
    model, empty = ([one.value for one in line.estimates] for line in curve.lines)
    life = curve.steps[-1] / window
    for steps, ours, theirs in zip(curve.steps, model, empty, strict=True):
        if steps > window and (ours - theirs) < 0.5 * (1 - theirs):
            life = steps / window
            break
    return Row(f"{metric}, half-life", stage, life, None, "", sum(curve.samples), unit="windows")
