"""Stages with a memory: rows of whole segments, and what a config may not ask for."""

from __future__ import annotations

import numpy as np
import pytest
from toy_sequences import BUILDER, VOCABULARY, toy_episode

from unimodel.batch import PADDING_DOCUMENT, pack
from unimodel.config import BatchConfig, MixtureEntry, StageConfig
from unimodel.config_memory import MemoryConfig, RecurrentConfig
from unimodel.config_objectives import DiffusionForcingConfig, MaskedConfig, TeacherForcingConfig
from unimodel.layout import NO_TARGET
from unimodel.objectives.asked import ask_everything
from unimodel.objectives.corruption import corrupt, weigh_pictures
from unimodel.objectives.segments import join_segments, num_segments
from unimodel.vocabulary import Modality

MEMORY = MemoryConfig(segment_frames=2, segment_tokens=128, mechanisms=(RecurrentConfig(kind="recurrent"),))


def stage(**changes: object) -> StageConfig:
    values: dict[str, object] = {
        "number": 4,
        "steps": 1,
        "batch": BatchConfig(rows=1, row_tokens=512),
        "mixture": (MixtureEntry(sequence="interaction", objective="frames", frames=9),),
        "objectives": {"frames": TeacherForcingConfig(kind="teacher_forcing")},
        "memory": MEMORY,
    }
    return StageConfig(**(values | changes))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": BatchConfig(rows=1, row_tokens=500)}, r"multiple of memory.segment_tokens \(128\).*use 512"),
        ({"batch": BatchConfig(rows=1, row_tokens=128)}, "nothing is ever remembered: use 256"),
        (
            {"mixture": (MixtureEntry(sequence="interaction", objective="frames", frames=10),)},
            r"frames \(10\) of an entry are 5 segments, and a row has 4: use 9",
        ),
        (
            {"mixture": (MixtureEntry(sequence="interaction", objective="frames", frames=9, sink=True),)},
            "neither a sink nor an agent",
        ),
    ],
)
def test_a_stage_that_its_segments_do_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage(**changes)


def test_a_segment_that_is_too_long_says_what_to_raise() -> None:
    asked = ask_everything(BUILDER.interaction(toy_episode(1, 4), 0, 5), VOCABULARY)
    with pytest.raises(ValueError, match=r"longer than memory.segment_tokens \(32\): raise it"):
        join_segments([asked], 32)


def test_segments_are_filled_up_with_what_nobody_sees_and_nothing_is_asked_of() -> None:
    asked = [ask_everything(BUILDER.interaction(toy_episode(1, 4), first, 3), VOCABULARY) for first in (0, 2)]
    batch = pack([[join_segments(asked, 128)]], 256, 0)
    assert num_segments(4, 2) == 2 and num_segments(0, 2) == 1 and num_segments(5, 2) == 3
    for number, segment in enumerate(asked):
        here = slice(number * 128, number * 128 + len(segment))
        np.testing.assert_array_equal(batch.input_ids[0, here].numpy(), segment.input_ids)
        rest = slice(here.stop, (number + 1) * 128)
        assert bool((batch.document[0, rest] == PADDING_DOCUMENT).all())
        assert bool((batch.target[0, rest] == NO_TARGET).all())
        assert bool((batch.document[0, here] == 0).all())


def test_everything_asked_is_hidden_and_nothing_else() -> None:
    episode = toy_episode(1, 4)
    sequence = BUILDER.interaction(episode, 0, 5)
    asked = ask_everything(sequence, VOCABULARY)
    hidden = asked.target != NO_TARGET
    masks = [VOCABULARY.mask(modality) for modality in (Modality.IMAGE, Modality.REWARD, Modality.DONE)]
    assert np.isin(asked.input_ids[hidden], masks).all() and not np.isin(asked.input_ids[~hidden], masks).any()
    images = VOCABULARY.range_of(Modality.IMAGE)
    codes = asked.target[hidden & (asked.modality == Modality.IMAGE)] - images.start
    np.testing.assert_array_equal(codes, episode.frames[1:].ravel())


@pytest.mark.parametrize(
    "config",
    [
        TeacherForcingConfig(kind="teacher_forcing", full_fraction=1.0),
        DiffusionForcingConfig(kind="diffusion_forcing"),
    ],
)
def test_chosen_pictures_weigh_more_and_nothing_else_does(
    config: TeacherForcingConfig | DiffusionForcingConfig,
) -> None:
    sequence = BUILDER.interaction(toy_episode(1, 4), 0, 5)
    plain = corrupt(sequence, VOCABULARY, config, 0, np.random.default_rng(0))
    chosen = np.array([False, True, False, False, True])
    weighed = weigh_pictures(plain, sequence, chosen, 8.0)
    asked = plain.weight > 0
    ratio = weighed.weight[asked] / plain.weight[asked]
    # A picture stands at one time, and so do the copies of it.
    times = [int(sequence.position_ids()[0, span.start]) for span in sequence.layout.pictures]
    is_chosen = np.isin(plain.position_ids[0, asked], np.array(times)[chosen])
    is_chosen &= plain.modality[asked] == Modality.IMAGE
    np.testing.assert_array_equal(ratio, np.where(is_chosen, 8.0, 1.0))
    assert is_chosen.any() and not is_chosen.all()


def test_a_stage_with_a_memory_may_teach_other_things_as_well_as_a_world() -> None:
    stage(
        mixture=(
            MixtureEntry(sequence="interaction", objective="frames", frames=9),
            MixtureEntry(sequence="text_to_image", objective="pictures"),
        ),
        objectives={
            "frames": TeacherForcingConfig(kind="teacher_forcing"),
            "pictures": MaskedConfig(kind="masked"),
        },
    )
    with pytest.raises(ValueError, match="no entry of the mixture is one"):
        stage(
            mixture=(MixtureEntry(sequence="text_to_image", objective="pictures"),),
            objectives={"pictures": MaskedConfig(kind="masked")},
        )
