"""The typed run config: what a YAML file may say, with units and the reason of every default.

A file may extend others (`base: other.yaml` or a list, later ones win), `--set a.b=c` changes one value, and the
result is validated once. Unknown keys are refused with the nearest right name. The resolved config is stored in the
run, in every checkpoint and in every export, and is enough to rebuild all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PositiveInt,
    field_validator,
    model_validator,
)

from data_pipelines.shards.storage import Folder, as_folder
from unimodel.vocabulary import Modality

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
DataFolder = Annotated[Folder, PlainValidator(as_folder, json_schema_input_type=str)]
"""A local folder as a Path, an address as text: Path would take a slash out of it."""


class Settings(BaseModel):
    """Strict, closed and immutable: a typo or a wrong type never becomes a silent default."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class RecordingConfig(Settings):
    """Episodes recorded from a gymnasium environment (`unimodel data record`)."""

    environment: str = "BabyAI-GoToLocalS8N3-v0"
    """A MiniGrid or BabyAI id; the scripted bot needs a BabyAI level."""
    train_episodes: PositiveInt = 4000
    validation_episodes: PositiveInt = 100
    """Held out for choosing settings: seeds that training never sees."""
    test_episodes: PositiveInt = 100
    """Held out for the figures that are told to others: looked at once the settings stand."""
    max_steps: PositiveInt = 16
    """Longest episode, in environment steps."""
    random_action_fraction: Fraction = 0.6
    """Share of steps that take a uniformly random action instead of the bot's, for coverage of all actions."""
    image_size: PositiveInt = 64
    """Height and width of a frame, pixels. The grid is drawn with image_size / grid cells pixels per cell."""
    episodes_per_shard: PositiveInt = 250


class TextTokenizerConfig(Settings):
    vocabulary_size: PositiveInt = 512
    """Byte-level BPE tokens, specials included."""


class ImageTokenizerConfig(Settings):
    """FSQ autoencoder (Mentzer et al. 2023, arXiv 2309.15505)."""

    patch_pixels: PositiveInt = 8
    """Pixels per token side: a 64x64 frame is (64 / 8)^2 = 64 tokens."""
    levels: tuple[PositiveInt, ...] = (8, 6, 5)
    """Quantisation levels per latent dimension; the codebook has their product."""
    width: PositiveInt = 96
    patch_local: bool = True
    """Encode each patch by itself, so that equal patches get equal codes. Right for grid worlds and easy on the
    dynamics; photographs want False (3x3 convolutions that mix neighbours)."""
    steps: PositiveInt = 1500
    batch_frames: PositiveInt = 32
    learning_rate: PositiveFloat = 3e-3


class BackboneConfig(Settings):
    """A stock Hugging Face decoder built from these sizes."""

    family: Literal["qwen3_5_text", "qwen3", "llama"] = "qwen3_5_text"
    """qwen3_5_text has 3-D rotary positions (time, height, width); the others are one-dimensional."""
    hidden_size: PositiveInt = 192
    num_layers: PositiveInt = 6
    num_heads: PositiveInt = 6
    num_key_value_heads: PositiveInt = 6
    head_dim: PositiveInt = 32
    intermediate_size: PositiveInt = 512
    rope_theta: PositiveFloat = 10000.0
    attention_bias: bool = False
    """Biases in the attention projections: heads that look at a place, whatever stands there, form much sooner (see
    docs/experiments.md)."""
    initializer_range: PositiveFloat = 0.02
    """Standard deviation of the initial weights; about 1 / sqrt(hidden_size) suits small models."""
    residual_scale: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor on the initial weights of what is added to the residual stream (attention and MLP outputs)."""
    pretrained: str | None = None
    """A local folder or Hub id to initialise from; its sizes replace the ones above and its vocabulary is extended."""

    @model_validator(mode="after")
    def _heads_divide(self) -> BackboneConfig:
        if self.num_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: rotary positions turn pairs")
        return self


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
    """Largest share of visible frame tokens replaced by random codes (drawn uniformly from 0 to this per sample)."""
    changed_weight: PositiveFloat = 1.0
    """Loss weight of tokens that differ from the same place one frame earlier; others weigh 1."""


class InverseDynamicsConfig(Settings):
    """Which action was it? All actions of an `interaction` hidden, everything else shown."""

    kind: Literal["inverse_dynamics"]
    coefficient: PositiveFloat = 1.0
    changed_weight: PositiveFloat = 1.0
    """Loss weight of actions that changed anything; others weigh 1: which of them it was, the frames cannot tell."""


def _check_rising(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    if any(later[0] <= earlier[0] for earlier, later in zip(points, points[1:], strict=False)):
        raise ValueError(f"the progress of the points must rise: {', '.join(str(p[0]) for p in points)}")
    return points


SharePoint = tuple[Fraction, Annotated[float, Field(ge=0.0)]]
Share = PositiveFloat | Annotated[tuple[SharePoint, ...], Field(min_length=1), AfterValidator(_check_rising)]

ObjectiveConfig = Annotated[
    NextTokenConfig | MaskedConfig | DiffusionForcingConfig | InverseDynamicsConfig, Field(discriminator="kind")
]


class MixtureEntry(Settings):
    """One ingredient of a stage's data."""

    sequence: Literal["clip", "text_to_image", "image_to_text", "interaction"]
    """How a recorded episode becomes a token sequence (`unimodel/tokenizers/unified.py`)."""
    objective: str
    """Name of one of the stage's objectives."""
    share: Share = 1.0
    """Tokens of this entry per token of an entry of share 1. Or how that changes: [progress, share] points, progress
    from 0 to 1 along the stage, linear between them."""
    frames: PositiveInt = 2
    """Most frames per sample of `clip` and `interaction`."""


class OptimizerConfig(Settings):
    kind: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonal updates for hidden matrices, AdamW for everything else (`unimodel/training/muon.py`)."""
    learning_rate: PositiveFloat = 1e-3
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    epsilon: PositiveFloat = 1e-8
    momentum: Fraction = 0.95
    """Of the hidden matrices under muon."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    """Applied to matrices only, never to norms, biases or embeddings."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """wsd: warmup, stable, then a linear decay over the last decay_fraction of the stage."""
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    decay_fraction: Fraction = 0.2
    final_fraction: Fraction = 0.1
    """Learning rate at the end, as a fraction of the peak."""
    gradient_clip: PositiveFloat = 1.0
    ema_decay: Fraction = 0.99
    """Exponential moving average of the weights; 0 turns it off. Evaluation and export use the average."""


class BatchConfig(Settings):
    rows: PositiveInt = 16
    """Rows of a global batch: over all ranks and accumulation steps."""
    row_tokens: PositiveInt = 512
    accumulation: PositiveInt = 1


class StageConfig(Settings):
    """One stage of the road: which data, which corruption, how long."""

    number: PositiveInt
    """Place on the road; stages run in this order. A stage may have several parts, one after another: the same number
    under several names."""
    steps: PositiveInt
    mixture: Annotated[tuple[MixtureEntry, ...], Field(min_length=1)]
    objectives: Annotated[dict[str, ObjectiveConfig], Field(min_length=1)]
    batch: BatchConfig = BatchConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    freeze: tuple[str, ...] = ()
    """Parameters that do not train in this stage, as shell patterns over their names (`model.embed_tokens.*`)."""
    carry_optimizer: bool = False
    """Keep the previous stage's optimizer state of the parameters that go on training, by name."""

    @property
    def skills(self) -> dict[str, int]:
        """What the stage teaches -> the most frames that it sees at once. A skill is a kind of sequence, or "actions"
        for telling them from frames."""
        skills: dict[str, int] = {}
        for entry in self.mixture:
            skill = "actions" if self.objectives[entry.objective].kind == "inverse_dynamics" else entry.sequence
            skills[skill] = max(skills.get(skill, 0), entry.frames)
        return skills

    @model_validator(mode="after")
    def _objectives_exist(self) -> StageConfig:
        for entry in self.mixture:
            if entry.objective not in self.objectives:
                raise ValueError(
                    f"objective '{entry.objective}' is not one of this stage's: {', '.join(self.objectives)}"
                )
            if self.objectives[entry.objective].kind == "inverse_dynamics" and entry.sequence != "interaction":
                raise ValueError(
                    f"objective '{entry.objective}' asks for actions: "
                    f"its sequence must be interaction, not {entry.sequence}"
                )
        return self


class EngineConfig(Settings):
    """DeepSpeed."""

    zero: Annotated[int, Field(ge=0, le=3)] = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = False
    communication_minutes: PositiveFloat = 10.0
    """Time limit of one collective."""


class CheckpointConfig(Settings):
    every_steps: PositiveInt = 200
    keep_last: PositiveInt = 2
    """Checkpoints of the running stage to keep; the last one of every stage always stays."""


class EvaluationConfig(Settings):
    """Sizes of `unimodel eval`; the episodes themselves are the shards of `test` (or `--split validation`)."""

    episodes: PositiveInt = 100
    branch_states: PositiveInt = 40
    """States of the counterfactual action test, each with every action."""
    sampling_steps: PositiveInt = 4
    """Refinement passes per generated frame."""
    rollout_frames: PositiveInt = 8


class DataConfig(Settings):
    folder: DataFolder
    """Holds `train/`, `validation/` and `test/` with their shards and index; a local folder, or an address that is only
    read (s3://bucket/folder, https://host/folder, hf://datasets/owner/name)."""
    recording: RecordingConfig = RecordingConfig()
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes per rank that read and build batches ahead; 0 does it between steps."""
    max_bad_samples: Annotated[int, Field(ge=0)] = 100
    """Unreadable samples that a run leaves out (listed in quarantine.jsonl) before it stops."""


class TokenizersConfig(Settings):
    text: TextTokenizerConfig = TextTokenizerConfig()
    image: ImageTokenizerConfig = ImageTokenizerConfig()


class RunConfig(Settings):
    """The whole file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    runs_folder: Path = Path("runs")
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataConfig
    tokenizers: TokenizersConfig = TokenizersConfig()
    backbone: BackboneConfig = BackboneConfig()
    stages: Annotated[dict[str, StageConfig], Field(min_length=1)]
    initial_weights: Path | None = None
    """A run folder or an export to start the first stage from, matched by parameter name."""
    engine: EngineConfig = EngineConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def folder(self) -> Path:
        """The run folder, `runs_folder/name`."""
        return self.runs_folder / self.name

    @property
    def ordered_stages(self) -> list[tuple[str, StageConfig]]:
        """By number; parts of one stage in the order in which the file has them."""
        return sorted(self.stages.items(), key=lambda item: item[1].number)
