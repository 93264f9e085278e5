"""Settings of the objectives: which tokens of a sequence are hidden, and how much every answer weighs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from data_pipelines.settings import Fraction, PositiveFloat, Settings
from unimodel.vocabulary import Modality

ModalityWeights = dict[str, PositiveFloat]
"""Loss weight per token of a modality, 1 where not named: one action among 128 image tokens is easily overlooked."""


def _check_modalities(weights: ModalityWeights) -> ModalityWeights:
    known = [modality.label for modality in Modality]
    if unknown := [name for name in weights if name not in known]:
        raise ValueError(f"unknown modality '{unknown[0]}'; known: {', '.join(known)}")
    return weights


class NextTokenConfig(Settings):
    """Plain language modelling of the TARGET spans."""

    kind: Literal["next_token"]
    coefficient: PositiveFloat = 1.0
    modality_weights: ModalityWeights = {}

    _known_modalities = field_validator("modality_weights")(_check_modalities)


class MaskedConfig(Settings):
    """Masked discrete diffusion (MDLM, arXiv 2406.07524; MaskGIT, arXiv 2202.04200)."""

    kind: Literal["masked"]
    coefficient: PositiveFloat = 1.0
    schedule: Literal["linear", "cosine"] = "cosine"
    """Mask rate r(u), u uniform: linear r = u, cosine r = cos(pi u / 2)."""
    mask_count: Literal["fixed", "bernoulli"] = "fixed"
    """fixed masks exactly max(1, round(r n)) tokens, bernoulli each with probability r."""
    weight: Literal["elbo", "uniform"] = "uniform"
    """elbo gives the likelihood bound (1/r for linear); uniform is MaskGIT's mean over masked tokens."""
    modality_weights: ModalityWeights = {}
    whole_modality_fraction: Fraction = 0.0
    """Share of samples in which one modality is masked completely (UniDisc)."""
    single_span_fraction: Fraction = 0.0
    """Share of samples that hide tokens of one span only (a caption, a frame, an action) and show the others whole:
    what one says of another is learnt several times sooner from a clean view than from one with holes everywhere."""
    changed_weight: PositiveFloat = 1.0
    """Loss weight of frame tokens that differ from the same place one frame earlier, and of actions that changed
    anything; others weigh 1."""
    attention: Literal["document", "span"] = "document"
    """document: the whole sample is one bidirectional block. span: text stays causal, only images are blocks, so a
    caption in front becomes a prompt that cannot see the image."""
    condition_dropout_fraction: Fraction = 0.0
    """Share of samples whose CONDITION text is hidden behind MASK, for classifier-free guidance."""

    _known_modalities = field_validator("modality_weights")(_check_modalities)

    @model_validator(mode="after")
    def _bound_stays_a_bound(self) -> MaskedConfig:
        bending = ("modality_weights", "whole_modality_fraction", "single_span_fraction", "changed_weight")
        for name in bending:
            if self.weight == "elbo" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"weight elbo is a likelihood bound only without {name}")
        return self


class DiffusionForcingConfig(Settings):
    """Frames with independent mask rates (Diffusion Forcing, arXiv 2407.01392, in its discrete form)."""

    kind: Literal["diffusion_forcing"]
    coefficient: PositiveFloat = 1.0
    clean_fraction: Fraction = 0.3
    """Probability that a frame is left clean: sampling conditions on clean history, so training must see it."""
    full_fraction: Fraction = 0.1
    """Probability that a frame is masked completely: the first step of sampling."""
    context_noise_fraction: Fraction = 0.1
    """Largest share of visible frame tokens replaced by random codes (drawn uniformly from 0 to this per sample), so
    that the model survives its own mistakes. 0 turns it off."""
    action_dropout_fraction: Fraction = 0.0
    """Share of windows whose actions are all replaced by `<|no_action|>`, as they stand in films, whose actions nobody
    knows: what films teach then serves where actions are known, and the other way round."""
    changed_weight: PositiveFloat = 1.0
    """Loss weight of tokens that differ from the same place one frame earlier; others weigh 1."""
    outcome_weight: PositiveFloat = 1.0
    """Loss weight of all rewards and ends: two tokens of a step, beside all that changed."""
    rare_outcome_weight: PositiveFloat = 1.0
    """Of rewards other than 0 and of ends, on top. Where they are rare, a model takes long to see them coming. Until it
    does, and wherever they are a matter of chance, it overrates them: by at most this factor, in odds."""


class TeacherForcingConfig(Settings):
    """Every frame asked for in a copy of its own, in front of the clean one (block diffusion, arXiv 2503.09573).

    A copy sees the clean frames before it and itself: exactly what sampling sees, and every frame of a window is asked
    in one pass. Its sequences are nearly twice as long as those of diffusion_forcing."""

    kind: Literal["teacher_forcing"]
    coefficient: PositiveFloat = 1.0
    full_fraction: Fraction = 0.1
    """Probability that a copy is masked completely: the first step of sampling."""
    context_noise_fraction: Fraction = 0.1
    """Largest share of visible frame tokens, in clean frames and copies, replaced by random codes (drawn uniformly from
    0 to this per sample), so that the model survives its own mistakes. 0 turns it off."""
    action_dropout_fraction: Fraction = 0.0
    """Share of windows whose actions are all replaced by `<|no_action|>`, as they stand in films, whose actions nobody
    knows: what films teach then serves where actions are known, and the other way round."""
    changed_weight: PositiveFloat = 1.0
    """Loss weight of tokens that differ from the same place one frame earlier; others weigh 1."""
    outcome_weight: PositiveFloat = 1.0
    """Loss weight of all rewards and ends: two tokens of a step, beside all that changed."""
    rare_outcome_weight: PositiveFloat = 1.0
    """Of rewards other than 0 and of ends, on top. Where they are rare, a model takes long to see them coming. Until it
    does, and wherever they are a matter of chance, it overrates them: by at most this factor, in odds."""


class InverseDynamicsConfig(Settings):
    """Which action was it? All actions of an `interaction` hidden, everything else shown."""

    kind: Literal["inverse_dynamics"]
    coefficient: PositiveFloat = 1.0
    changed_weight: PositiveFloat = 1.0
    """Loss weight of actions that changed anything; others weigh 1: which of them it was, the frames cannot tell."""
    ask_changed_places: bool = False
    """Ask for the action at the frame tokens that it changed as well: each sees there what was before and is now, which
    the action's own place must first find among all tokens of two frames."""


class PolicyConfig(Settings):
    """What does the agent do next (behaviour cloning), and what will it get? Asked at the end of every moment of an
    `interaction`, in two tokens that read everything and that nothing reads.

    As the objective of an entry it reads a world that is shown. Named as the `agent` of an entry that asks for frames,
    it is asked in the same pass: cheaper, and with teacher_forcing the agent reads clean frames there too."""

    kind: Literal["policy"]
    coefficient: PositiveFloat = 1.0
    discount: Annotated[float, Field(ge=0.0, le=1.0)] = 0.97
    """Of rewards by every step that they are away."""
    value_weight: PositiveFloat = 1.0
    """Loss weight of what it will get; an action weighs 1."""


class DrawingConfig(Settings):
    """How pictures are drawn to be judged: parallel decoding (`unimodel/sampling/fill.py`)."""

    steps: PositiveInt = 4
    """Passes per picture."""
    temperature: PositiveFloat = 1.0
    choice_temperature: Annotated[float, Field(ge=0.0)] = 4.5
    """Gumbel noise on the confidence by which places are kept, falling to 0 over the passes."""


class AlignmentConfig(Settings):
    """Draw several pictures of every prompt, have them judged, and make the better ones likelier.

    grpo: policy gradient with group-relative advantages (DeepSeekMath, arXiv 2402.03300) and masked likelihoods
    (UniGRPO of MMaDA, arXiv 2505.15809). dpo: the best of a group is preferred to the worst (arXiv 2305.18290), with
    the likelihood bounds and common masks of LLaDA 1.5 (arXiv 2505.19223)."""

    kind: Literal["grpo", "dpo"]
    coefficient: PositiveFloat = 1.0
    group: Annotated[int, Field(ge=2)] = 8
    """Pictures per prompt. One alone has nothing to be compared with."""
    drawing: DrawingConfig = DrawingConfig()
    likelihood: Literal["masks", "trajectory"] = "masks"
    """How likely a picture is: under random masks, which all pictures of a prompt and all models share (UniGRPO, LLaDA
    1.5), or step by step as it was drawn (TraceRL, arXiv 2509.06949)."""
    masks: PositiveInt = 2
    """Masks per picture and update, their sizes spread evenly; of a trajectory, as many of its passes, chosen anew."""
    updates: PositiveInt = 1
    """Updates from the same pictures, each with other masks."""
    clip: PositiveFloat = 0.2
    """Of grpo: beyond this change of a token's probability by the updates of a step, nothing is gained any more."""
    kl_weight: Annotated[float, Field(ge=0.0)] = 0.01
    """Of grpo: loss per nat per token of KL divergence from the model before the stage."""
    preference_scale: PositiveFloat = 0.1
    """Of dpo: beta, per nat of a whole picture. The larger, the closer to the model before the stage."""
    max_kl: PositiveFloat = 0.1
    """Nats per token: the stage ends with the first update that begins farther than this from the model before it."""
    violation_cost: Annotated[float, Field(ge=0.0)] = 0.5
    """What a broken law takes from a reward, which is the share of right facts (docs/alignment.md)."""
    credit: Literal["picture", "place"] = "picture"
    """Of grpo: what an advantage is given to. A whole picture, by its reward; or every token of it alone, by whether it
    shows what is right: less noise, where a judge can tell."""

    @model_validator(mode="after")
    def _passes_are_there(self) -> AlignmentConfig:
        if self.likelihood == "trajectory" and self.masks > self.drawing.steps:
            raise ValueError(f"masks ({self.masks}) of a trajectory are at most drawing.steps ({self.drawing.steps})")
        return self

    @model_validator(mode="after")
    def _pairs_are_of_pictures(self) -> AlignmentConfig:
        if self.credit == "place" and self.kind == "dpo":
            raise ValueError("credit: dpo prefers one picture to another, and has no credit by place; take kind: grpo")
        return self

    @property
    def pictures_per_update(self) -> int:
        """Of every prompt."""
        return self.group if self.kind == "grpo" else 2

    @property
    def reads_first_pass(self) -> bool:
        """Whether every update reads the first pass of every drawing, as its first mask. Nothing stands there yet, so
        that it is the same for all pictures of a prompt and is read once."""
        return self.likelihood == "trajectory" and self.masks == self.drawing.steps

    @property
    def passes_per_update(self) -> int:
        """How often every prompt is read for an update."""
        if self.reads_first_pass:
            return 1 + self.pictures_per_update * (self.masks - 1)
        return self.pictures_per_update * self.masks


ObjectiveConfig = Annotated[
    NextTokenConfig
    | MaskedConfig
    | DiffusionForcingConfig
    | TeacherForcingConfig
    | InverseDynamicsConfig
    | PolicyConfig
    | AlignmentConfig,
    Field(discriminator="kind"),
]


class OwnRolloutConfig(Settings):
    """Late in a stage, windows of teacher_forcing whose clean frames the model has made itself: it learns to find back
    from where its own mistakes lead. Every step then makes `steps` more forward passes."""

    steps: PositiveInt = 2
    """How many frames in a row are its own where a frame is asked for."""
    fraction: Fraction = 0.5
    """Share of the windows; the others keep the real past."""
    after: Fraction = 0.7
    """Progress of the stage from which on: before, what it makes is not worth learning from."""
