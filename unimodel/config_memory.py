"""Settings of memory: how a stage cuts episodes into segments, and what passes from one to the next."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from data_pipelines.settings import Fraction, PositiveFloat, Settings


class WindowConfig(Settings):
    """The frames just before a segment, in full: a window that is longer than the segment."""

    kind: Literal["window"]
    frames: PositiveInt = 4


class RecurrentConfig(Settings):
    """Tokens that pass from segment to segment (RMT, arXiv 2207.06881)."""

    kind: Literal["recurrent"]
    by: Literal["slot", "patch"] = "slot"
    """patch: as many as a picture has patches, each at its place in it."""
    tokens: PositiveInt = 8
    """By slot."""


class FastWeightConfig(Settings):
    """A matrix under the gated delta rule (arXiv 2412.06464), or with a momentum (Titans, arXiv 2501.00663)."""

    kind: Literal["fastweight"]
    tokens: PositiveInt = 8
    """Read of it in front of a segment."""
    heads: PositiveInt = 4
    head_dim: PositiveInt = 32
    momentum: bool = False
    """A correction of the matrix goes on with the tokens that follow, as long as these let it."""


class CompressedConfig(Settings):
    """Older frames at fewer tokens (FramePack, arXiv 2504.12626)."""

    kind: Literal["compressed"]
    levels: Annotated[tuple[tuple[PositiveInt, PositiveInt], ...], Field(min_length=1)] = ((1, 1), (4, 2), (16, 4))
    """(frames, side) from the newest on: so many frames, each square of side x side patches one token."""


class EpisodicConfig(Settings):
    """Frames of any time, recalled by a learned key (Memorizing Transformers, arXiv 2203.08913) or by the pose from
    which they were seen (WorldMem, arXiv 2504.12369)."""

    kind: Literal["episodic"]
    by: Literal["key", "pose"] = "key"
    """pose: the nearest, as an odometer reckons them that is trained with the tokenizers; episodes must have poses."""
    capacity_frames: PositiveInt = 512
    """Frames kept of a row; then the oldest are overwritten."""
    recalled_frames: PositiveInt = 2
    """In front of a segment."""
    key_dim: PositiveInt = 64
    """Of a learned key."""
    turn_weight: PositiveFloat = 0.5
    """By pose: what a radian between two headings counts, in units of the world's places."""


MechanismConfig = Annotated[
    WindowConfig | RecurrentConfig | FastWeightConfig | CompressedConfig | EpisodicConfig, Field(discriminator="kind")
]


class MemoryConfig(Settings):
    """Episodes are read in segments, between which only the memory passes. Without any mechanism nothing does: what a
    model with a window alone would know."""

    segment_frames: PositiveInt = 4
    """Steps of a segment: frames that it foretells."""
    segment_tokens: PositiveInt = 640
    """Places that a segment takes of a row, noisy copies and text included; the longest must fit."""
    truncation_segments: Annotated[int, Field(ge=2)] = 4
    """Segments that a gradient passes; 1 would never reach what was written."""
    recalled_weight: PositiveFloat = 1.0
    """Loss weight of frames at a pose at which the agent was before, more than a segment ago in the same stretch: where
    they are rare, hardly anything else says that remembering pays."""
    dropout_fraction: Fraction = 0.0
    """Share of segments, in training, that read an empty memory."""
    hidden_start_fraction: Fraction = 0.0
    """Share of segments, in training, whose first frame, which the segment before has as well, is hidden: a window made
    shorter on purpose. What it showed must then come through the memory, which so is read from the first steps on."""
    mechanisms: tuple[MechanismConfig, ...] = ()

    @model_validator(mode="after")
    def _hides_from_none_that_keeps_frames(self) -> MemoryConfig:
        keeping = [each.kind for each in self.mechanisms if not isinstance(each, (RecurrentConfig, FastWeightConfig))]
        if self.hidden_start_fraction and keeping:
            raise ValueError(
                f"hidden_start_fraction hides frames, and '{keeping[0]}' would keep them hidden: it is for recurrent "
                "and fastweight"
            )
        return self

    @property
    def recalls_by_pose(self) -> bool:
        """Whether an odometer is needed."""
        return any(isinstance(each, EpisodicConfig) and each.by == "pose" for each in self.mechanisms)

    @field_validator("mechanisms")
    @classmethod
    def _one_of_a_kind(cls, mechanisms: tuple[MechanismConfig, ...]) -> tuple[MechanismConfig, ...]:
        kinds = [each.kind for each in mechanisms]
        if twice := [kind for kind in kinds if kinds.count(kind) > 1]:
            raise ValueError(f"two mechanisms of kind '{twice[0]}': give one of them more tokens or frames")
        return mechanisms
