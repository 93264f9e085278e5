"""Do drawn pictures show what was asked for, and a world that could be? Told by the environment's own renderer.

A stage that draws is asked for a picture of every held-out episode, from the caption of one of its frames; an aligned
one beside the model before it, from the same prompts and noise. No learned judge: tiles are read back
(`data_pipelines/sources/minigrid_reading.py`), and how well that goes is told by real frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.sources.minigrid_reading import GridJudge, Verdict
from data_pipelines.stream.randomness import keyed_generator
from unimodel.backbone.model import Backbone
from unimodel.batch import TokenSequence
from unimodel.config_objectives import DrawingConfig
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.intervals import over_episodes, ratio, share_of_episodes
from unimodel.evaluation.table import Estimate, Row
from unimodel.objectives.alignment import divergence, draw_mask
from unimodel.observe.progress import say
from unimodel.sampling.fill import FillSettings, fill_span, hide, predict_hidden, read_only
from unimodel.training.alignment_setup import judge_pictures, model_before, recorded_judge
from unimodel.training.loaded_run import LoadedRun
from unimodel.vocabulary import Modality

AT_ONCE = 32
KL_MASKS = 4
"""Per picture, their sizes spread evenly."""
SUCCESS, FACTS, BROKEN = "instruction success", "facts right", "law violations per 1,000 frames"
UNASKED = "things that nobody asked for, per frame"


@dataclass(frozen=True, slots=True)
class Prompts:
    """A frame of every held-out episode: its caption (ids), its codes and its picture."""

    keys: list[str]
    texts: list[np.ndarray]
    codes: list[np.ndarray]
    pictures: np.ndarray
    captions: list[str]


def evaluate_laws(loaded: LoadedRun, held_out: HeldOut) -> tuple[list[Row], list[Row]]:
    """Rows of an aligned stage and details; only details of another one; nothing, said, where nobody can judge."""
    try:
        judge = recorded_judge(loaded.config)
    except ValueError as error:
        say(f"instruction success is left out: {error}", log=loaded.run.log)
        return [], []
    prompts = _prompts(held_out)
    settings = loaded.config.stages[loaded.stage].alignment
    drawing = settings.drawing if settings is not None else DrawingConfig()
    drawn = draw(loaded, loaded.backbone, prompts, drawing)
    verdicts = judge_pictures(loaded.bundle, judge, prompts.texts, drawn)
    ceiling = judge_pictures(loaded.bundle, judge, prompts.texts, prompts.codes)
    details = [_reading(judge, prompts, ceiling)]
    if settings is None:
        shuffled = judge_pictures(loaded.bundle, judge, [*prompts.texts[1:], prompts.texts[0]], drawn)
        return [], details + _rows(loaded.stage, verdicts, shuffled, "another caption", ceiling)
    before = model_before(loaded.config, loaded.run, loaded.bundle, loaded.stage, loaded.device)
    drawn_before = draw(loaded, before, prompts, drawing)
    verdicts_before = judge_pictures(loaded.bundle, judge, prompts.texts, drawn_before)
    *rows, unasked = _rows(loaded.stage, verdicts, verdicts_before, "before alignment", ceiling)
    kl = over_episodes(np.mean, divergences(loaded, before, prompts, drawn))
    bound = Row(
        "KL from the model before, nats per token",
        loaded.stage,
        kl.value,
        settings.max_kl,
        "its bound",
        len(drawn),
        higher_is_better=False,
        interval=kl.interval,
    )
    return rows, [*details, *_rises(loaded.stage, verdicts, verdicts_before), unasked, bound]


def draw(loaded: LoadedRun, backbone: Backbone, prompts: Prompts, settings: DrawingConfig) -> list[np.ndarray]:
    """Codes [tokens] of a picture for every prompt; the noise is that of the prompts, whoever draws."""
    bundle, drawn = loaded.bundle, []
    fill = FillSettings(settings.steps, settings.temperature, settings.choice_temperature)
    sequences = _sequences(loaded, prompts, prompts.codes)
    for start in range(0, len(sequences), AT_ONCE):
        some = sequences[start : start + AT_ONCE]
        spans = [sequence.layout.pictures[0] for sequence in some]
        rng = keyed_generator("evaluate laws", start)
        drawn += fill_span(backbone, some, spans, bundle.vocabulary, bundle.pad_id, fill, rng)
    return drawn


def divergences(loaded: LoadedRun, before: Backbone, prompts: Prompts, drawn: Sequence[np.ndarray]) -> np.ndarray:
    """float64 [prompts]: KL in nats per token from `loaded` to the model `before`, on what `loaded` has drawn."""
    vocabulary, pad_id = loaded.bundle.vocabulary, loaded.bundle.pad_id
    image = vocabulary.range_of(Modality.IMAGE)
    asked = []
    for key, sequence in zip(prompts.keys, _sequences(loaded, prompts, drawn), strict=True):
        span = sequence.layout.pictures[0]
        for number in range(KL_MASKS):
            hidden = np.zeros(len(sequence), dtype=bool)
            rng = keyed_generator("evaluate laws", "mask", number, key)
            hidden[span.start : span.stop] = draw_mask(len(span), number, KL_MASKS, rng)
            asked.append(hide(read_only(sequence), hidden, vocabulary))
    means = []
    for start in range(0, len(asked), AT_ONCE):
        some = asked[start : start + AT_ONCE]
        for logits in zip(*(predict_hidden(model, some, pad_id) for model in (loaded.backbone, before)), strict=True):
            ours, theirs = (part[:, image.start : image.stop].double().log_softmax(dim=-1) for part in logits)
            means.append(float(divergence(ours, theirs).mean()))
    return np.array(means).reshape(-1, KL_MASKS).mean(axis=1)


def _prompts(held_out: HeldOut) -> Prompts:
    chosen = [
        (number, int(keyed_generator("evaluate laws", episode.key).integers(episode.num_frames)))
        for number, episode in enumerate(held_out.tokens)
    ]
    return Prompts(
        [held_out.tokens[number].key for number, _ in chosen],
        [held_out.tokens[number].caption(at) for number, at in chosen],
        [held_out.tokens[number].frames[at].ravel() for number, at in chosen],
        np.stack([held_out.episodes[number].frames[at] for number, at in chosen]),
        [held_out.episodes[number].captions[at] for number, at in chosen],
    )


def _sequences(loaded: LoadedRun, prompts: Prompts, codes: Sequence[np.ndarray]) -> list[TokenSequence]:
    side = round(len(codes[0]) ** 0.5)
    each = zip(prompts.texts, codes, prompts.keys, strict=True)
    return [loaded.bundle.builder.text_to_image(text, some.reshape(side, side), key) for text, some, key in each]


def _rows(
    stage: str, verdicts: Sequence[Verdict], others: Sequence[Verdict], name: str, ceiling: Sequence[Verdict]
) -> list[Row]:
    """Success, facts, violations and what nobody asked for, beside those of `others`."""
    pairs = [
        (SUCCESS, success(verdicts), success(others), success(ceiling), True),
        (FACTS, facts_right(verdicts), facts_right(others), facts_right(ceiling), True),
        (BROKEN, violations(verdicts), violations(others), violations(ceiling), False),
        (UNASKED, unasked(verdicts), unasked(others), unasked(ceiling), False),
    ]
    return [
        Row(
            metric,
            stage,
            ours.value,
            theirs.value,
            name,
            len(verdicts),
            higher_is_better=higher,
            interval=ours.interval,
            ceiling=best.value,
        )
        for metric, ours, theirs, best, higher in pairs
    ]


def _rises(stage: str, verdicts: Sequence[Verdict], before: Sequence[Verdict]) -> list[Row]:
    """What changed, prompt by prompt: the noise of the prompts is in both, so these intervals are narrower."""
    pairs = list(zip(verdicts, before, strict=True))
    changes = {
        f"{SUCCESS}, rise": ([now.is_right - then.is_right for now, then in pairs], True),
        f"{FACTS}, rise": ([now.right / now.asked - then.right / then.asked for now, then in pairs], True),
        f"{BROKEN}, rise": ([1000.0 * (len(now.broken) - len(then.broken)) for now, then in pairs], False),
    }
    rows = []
    for metric, (values, higher) in changes.items():
        rise = over_episodes(np.mean, np.array(values, dtype=np.float64))
        rows.append(
            Row(metric, stage, rise.value, 0.0, "", len(pairs), higher_is_better=higher, interval=rise.interval)
        )
    return rows


def _reading(judge: GridJudge, prompts: Prompts, decoded: Sequence[Verdict]) -> Row:
    """How well real frames are read: those decoded from their codes, beside them as they were recorded."""
    recorded, through = facts_right(judge.judge(prompts.captions, prompts.pictures)), facts_right(decoded)
    name = "facts right in real frames, decoded from their codes"
    return Row(
        name, "tokenizer", through.value, None, "", len(decoded), interval=through.interval, ceiling=recorded.value
    )


def success(verdicts: Sequence[Verdict]) -> Estimate:
    """Share of pictures that show everything that was asked for."""
    return share_of_episodes([verdict.is_right for verdict in verdicts])


def facts_right(verdicts: Sequence[Verdict]) -> Estimate:
    """Share of facts asked for that pictures show."""
    right, asked = (np.array([getattr(v, name) for v in verdicts], dtype=np.float64) for name in ("right", "asked"))
    return over_episodes(ratio, right, asked)


def violations(verdicts: Sequence[Verdict]) -> Estimate:
    """Broken laws per 1,000 frames."""
    return over_episodes(np.mean, np.array([1000.0 * len(verdict.broken) for verdict in verdicts]))


def unasked(verdicts: Sequence[Verdict]) -> Estimate:
    """Facts shown that were not asked for, per frame: what a reward for right facts alone would be gained by."""
    return over_episodes(np.mean, np.array([float(verdict.shown - verdict.right) for verdict in verdicts]))
