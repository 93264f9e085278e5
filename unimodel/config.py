"""The typed run config: what a YAML file may say, with units and the reason of every default.

A file may extend others (`base: other.yaml` or a list, later ones win), `--set a.b=c` changes one value, and the
result is validated once. Unknown keys are refused with the nearest right name. The resolved config is stored in the
run, in every checkpoint and in every export, and is enough to rebuild all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from data_pipelines.settings import Fraction, PositiveFloat, Settings
from unimodel.config_data import EPISODES, DataConfig
from unimodel.config_engine import EngineConfig
from unimodel.config_faults import CheckpointConfig, FaultConfig
from unimodel.config_memory import MemoryConfig
from unimodel.config_objectives import AlignmentConfig, ObjectiveConfig, OwnRolloutConfig, PolicyConfig
from unimodel.config_observe import ObserveConfig
from unimodel.config_tokenizers import TokenizersConfig


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


def _check_rising(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    if any(later[0] <= earlier[0] for earlier, later in zip(points, points[1:], strict=False)):
        raise ValueError(f"the progress of the points must rise: {', '.join(str(p[0]) for p in points)}")
    return points


SharePoint = tuple[Fraction, Annotated[float, Field(ge=0.0)]]
Share = PositiveFloat | Annotated[tuple[SharePoint, ...], Field(min_length=1), AfterValidator(_check_rising)]


SequenceKind = Literal[
    "clip", "text_to_image", "image_to_text", "text_to_audio", "audio_to_text", "interaction", "text"
]


ASK_STEPS = {
    "inverse_dynamics": "actions",
    "teacher_forcing": "the frames that actions lead to",
    "policy": "what an agent does",
}
"""Kinds of objectives that need steps -> what they ask for."""
ASK_FRAMES = ("diffusion_forcing", "teacher_forcing")
"""Kinds of objectives beside which an agent can be asked."""


class MixtureEntry(Settings):
    """One ingredient of a stage's data."""

    sequence: SequenceKind
    """How a sample becomes a token sequence (`unimodel/tokenizers/unified.py`)."""
    source: str = EPISODES
    """One of `data.sources`, or the recorded episodes of `data.folder`."""
    objective: str
    """Name of one of the stage's objectives."""
    share: Share = 1.0
    """Tokens of this entry per token of an entry of share 1. Or how that changes: [progress, share] points, progress
    from 0 to 1 along the stage, linear between them."""
    frames: PositiveInt = 2
    """Most frames per sample of `clip` and `interaction`."""
    last_fraction: Fraction = 0.0
    """Share of the windows of `clip` and `interaction` that are the last of their episode. Where a reward comes with
    the end, hardly any other shows one (rewards drawn more often than they come: UNREAL, arXiv 1611.05397)."""
    text_tokens: PositiveInt = 256
    """Most tokens per sample of `text`."""
    sink: bool = False
    """An `interaction` that begins later than its episode has the episode's first frame in front, to hold on to."""
    agent: str | None = None
    """Name of a policy objective of the stage: every moment of an `interaction` that asks for frames also ends with a
    question to the agent, and its answers are learnt in the same pass."""

    @property
    def most(self) -> int:
        """Most frames, or tokens of a text, per sample."""
        return self.text_tokens if self.sequence == "text" else self.frames


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

    def micro_rows(self, num_ranks: int) -> int:
        """Rows of one micro-batch on one rank. Raises ValueError when the global batch does not divide."""
        rows, accumulation = self.rows, self.accumulation
        if rows % (num_ranks * accumulation):
            next_fit = -(-rows // (num_ranks * accumulation)) * num_ranks * accumulation
            raise ValueError(
                f"batch.rows ({rows}) must be a multiple of ranks ({num_ranks}) x batch.accumulation ({accumulation}): "
                f"use {next_fit}, or another number of processes"
            )
        return rows // (num_ranks * accumulation)


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
    own_rollout: OwnRolloutConfig | None = None
    """Train windows of teacher_forcing on frames of the model's own."""
    memory: MemoryConfig | None = None
    """Read episodes in segments, with a memory that outlives each of them."""
    freeze: tuple[str, ...] = ()
    """Parameters that do not train in this stage, as shell patterns over their names (`model.embed_tokens.*`)."""
    carry_optimizer: bool = False
    """Keep the previous stage's optimizer state of the parameters that go on training, by name."""

    @property
    def skills(self) -> dict[str, int]:
        """What the stage teaches on recorded episodes -> the most frames that it sees at once. A skill is a kind of
        sequence, "actions" for telling them from frames, or "policy" for choosing them."""
        skills: dict[str, int] = {}
        for entry in (entry for entry in self.mixture if entry.source == EPISODES):
            kind = self.objectives[entry.objective].kind
            taught = [{"inverse_dynamics": "actions", "policy": "policy"}.get(kind, entry.sequence)]
            for skill in taught + ["policy"] * (entry.agent is not None):
                skills[skill] = max(skills.get(skill, 0), entry.frames)
        return skills

    @property
    def world(self) -> MixtureEntry | None:
        """The entry that teaches to step the recorded world, of the most frames."""
        asks = ("inverse_dynamics", "policy")
        entries = [e for e in self.mixture if e.source == EPISODES and e.sequence == "interaction"]
        entries = [e for e in entries if self.objectives[e.objective].kind not in asks]
        return max(entries, key=lambda entry: entry.frames, default=None)

    def agent_of(self, entry: MixtureEntry) -> tuple[str, PolicyConfig] | None:
        """The policy objective that an entry asks its agent by, with its name."""
        name = entry.agent or entry.objective
        objective = self.objectives[name]
        return (name, objective) if isinstance(objective, PolicyConfig) else None

    @property
    def alignment(self) -> AlignmentConfig | None:
        """What an alignment stage does, and does alone; None in other stages."""
        return next((o for o in self.objectives.values() if isinstance(o, AlignmentConfig)), None)

    @property
    def passes_per_update(self) -> int:
        """How often the rows of a batch are read for one update: with other pictures, or under other masks."""
        return self.alignment.passes_per_update if self.alignment else 1

    @model_validator(mode="after")
    def _aligns_alone(self) -> StageConfig:
        if self.alignment is not None and len(self.objectives) > 1:
            raise ValueError(f"an alignment stage has one objective, this one has {', '.join(self.objectives)}")
        for entry in self.mixture if self.alignment is not None else ():
            if entry.sequence != "text_to_image" or entry.source != EPISODES:
                raise ValueError(
                    f"an alignment stage takes its prompts from text_to_image of {EPISODES}, whose environment judges "
                    f"the pictures, not from {entry.sequence} of {entry.source}"
                )
        return self

    @model_validator(mode="after")
    def _objectives_exist(self) -> StageConfig:
        for entry in self.mixture:
            if entry.objective not in self.objectives:
                raise ValueError(
                    f"objective '{entry.objective}' is not one of this stage's: {', '.join(self.objectives)}"
                )
            kind = self.objectives[entry.objective].kind
            if kind in ASK_STEPS and entry.sequence != "interaction":
                raise ValueError(
                    f"objective '{entry.objective}' asks for {ASK_STEPS[kind]}: "
                    f"its sequence must be interaction, not {entry.sequence}"
                )
            if entry.sink and entry.sequence != "interaction":
                raise ValueError(f"sink: only an interaction has one, not {entry.sequence}")
            if entry.last_fraction and entry.sequence not in ("clip", "interaction"):
                raise ValueError(f"last_fraction is for windows of frames: clip and interaction, not {entry.sequence}")
            if entry.agent is not None:
                self._check_agent(entry, entry.agent)
        kinds = [self.objectives[entry.objective].kind for entry in self.mixture]
        if self.own_rollout is not None and "teacher_forcing" not in kinds:
            raise ValueError("own_rollout: no entry of this stage's mixture has a teacher_forcing objective")
        return self

    @model_validator(mode="after")
    def _segments_fit(self) -> StageConfig:
        if self.memory is None:
            return self
        tokens, row_tokens = self.memory.segment_tokens, self.batch.row_tokens
        if row_tokens % tokens or (self.memory.mechanisms and row_tokens < 2 * tokens):
            raise ValueError(
                f"batch.row_tokens ({row_tokens}) must be a multiple of memory.segment_tokens ({tokens}), and at least "
                f"two of them, or nothing is ever remembered: use {max(2, -(-row_tokens // tokens)) * tokens}"
            )
        worlds = [entry for entry in self.mixture if entry.sequence == "interaction"]
        if not worlds:
            raise ValueError("memory: it is of interactions, and no entry of the mixture is one")
        for entry in worlds:
            if self.objectives[entry.objective].kind not in ASK_FRAMES:
                raise ValueError(
                    f"memory: it is of interactions whose objective is {' or '.join(ASK_FRAMES)}, not "
                    f"'{entry.objective}': give that a stage of its own"
                )
            if entry.sink or entry.agent:
                raise ValueError("memory: its segments have neither a sink nor an agent; leave `sink` and `agent` out")
            steps, most = entry.frames - 1, row_tokens // tokens * self.memory.segment_frames
            if steps > most:
                raise ValueError(
                    f"frames ({entry.frames}) of an entry are {-(-steps // self.memory.segment_frames)} segments, and "
                    f"a row has {row_tokens // tokens}: use {most + 1}, or raise batch.row_tokens"
                )
        if self.own_rollout is not None:
            raise ValueError("own_rollout: its windows have no memory; leave one of them out")
        return self

    def _check_agent(self, entry: MixtureEntry, agent: str) -> None:
        if agent not in self.objectives or self.objectives[agent].kind != "policy":
            policies = [name for name, objective in self.objectives.items() if objective.kind == "policy"]
            raise ValueError(
                f"agent '{agent}' is not one of this stage's policy objectives: {', '.join(policies) or 'it has none'}"
            )
        if entry.sequence != "interaction" or self.objectives[entry.objective].kind not in ASK_FRAMES:
            raise ValueError(
                f"agent '{agent}' is asked in an interaction whose objective is {' or '.join(ASK_FRAMES)}, "
                f"not in {entry.sequence} of '{entry.objective}': give the policy an entry of its own"
            )


class EvaluationConfig(Settings):
    """Sizes of `unimodel eval`; the episodes themselves are the shards of `test` (or `--split validation`)."""

    episodes: PositiveInt = 100
    branch_states: PositiveInt = 40
    """States of the counterfactual action test, each with every action."""
    sampling_steps: PositiveInt = 4
    """Refinement passes per generated frame."""
    horizons: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 4, 8, 16, 64)
    """After how many steps of its own frames the model is judged, as far as held-out episodes go on."""


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
    faults: FaultConfig = FaultConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    observe: ObserveConfig = ObserveConfig()

    @model_validator(mode="after")
    def _sources_exist(self) -> RunConfig:
        known = [EPISODES, *self.data.sources]
        if EPISODES in self.data.sources:
            raise ValueError(f"data.sources may not be named '{EPISODES}': that is data.folder")
        for name, stage in self.stages.items():
            for entry in stage.mixture:
                if entry.source not in known:
                    raise ValueError(
                        f"stages.{name}.mixture: source '{entry.source}' is not one of data.sources; "
                        f"known: {', '.join(known)}"
                    )
        return self

    @model_validator(mode="after")
    def _rows_divide(self) -> RunConfig:
        parts = self.engine.sequence_parallel
        for name, stage in self.stages.items():
            if stage.batch.row_tokens % parts:
                raise ValueError(
                    f"stages.{name}.batch.row_tokens ({stage.batch.row_tokens}) must be a multiple of "
                    f"engine.sequence_parallel ({parts}): use {-(-stage.batch.row_tokens // parts) * parts}"
                )
        return self

    @model_validator(mode="after")
    def _segments_stay_whole(self) -> RunConfig:
        for name, stage in self.stages.items():
            if stage.memory is not None and self.engine.sequence_parallel > 1:
                raise ValueError(f"stages.{name}.memory: engine.sequence_parallel would cut its segments; set it to 1")
        return self

    @model_validator(mode="after")
    def _alignment_has_a_model(self) -> RunConfig:
        can_draw = self.initial_weights is not None
        for name, stage in self.ordered_stages:
            if stage.alignment is not None and not can_draw:
                raise ValueError(
                    f"stages.{name} aligns a model that draws, and there is none before it: put a stage with "
                    "text_to_image in front (its `number` below this one's), or name a run in initial_weights"
                )
            if stage.alignment is not None and self.engine.sequence_parallel > 1:
                raise ValueError(f"stages.{name} draws whole pictures on each rank: set engine.sequence_parallel=1")
            can_draw = can_draw or "text_to_image" in stage.skills
        return self

    @model_validator(mode="after")
    def _replicas_exist(self) -> RunConfig:
        if self.observe.check_replicas_every_steps and self.engine.zero == 3:
            raise ValueError("observe.check_replicas_every_steps: engine.zero=3 holds no weight twice; leave it out")
        return self

    @property
    def folder(self) -> Path:
        """The run folder, `runs_folder/name`."""
        return self.runs_folder / self.name

    @property
    def ordered_stages(self) -> list[tuple[str, StageConfig]]:
        """By number; parts of one stage in the order in which the file has them."""
        return sorted(self.stages.items(), key=lambda item: item[1].number)
