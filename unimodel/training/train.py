"""The training loop: stages in order, each from the weights of the one before, resumable at any step.

for every stage that is not done:
    build the backbone from the last checkpoint's weights, by name
    for every step: next batch, train step, moving average, metrics, checkpoint when due
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipelines.stream.loader import StepBatch
from data_pipelines.stream.plan import StreamState
from data_pipelines.stream.workers import WorkerError
from unimodel.backbone.model import Backbone, build_decoder
from unimodel.config import RunConfig, StageConfig
from unimodel.config_file import settings_of
from unimodel.errors import RunError, Stopped
from unimodel.observe.progress import ProgressBar, say
from unimodel.run_folder import RunFolder, append_json_line, truncate_json_lines
from unimodel.tokenizers.bundle import TokenizerBundle
from unimodel.tokenizers.finished import source_names
from unimodel.tokenizers.prepare import load_run_bundle
from unimodel.training.checkpoint import (
    AVERAGE,
    OPTIMIZER,
    WEIGHTS,
    Checkpoint,
    TrainPosition,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from unimodel.training.data import StageData, entry_name
from unimodel.training.engine import build_engine, freeze, start_process_group
from unimodel.training.finished import is_done, require_same_config
from unimodel.training.initial_weights import load_by_name, read_initial_weights
from unimodel.training.named_state import AVERAGE as AVERAGE_KEY
from unimodel.training.named_state import MOMENTS, NamedState
from unimodel.training.quarantine import quarantine
from unimodel.training.schedule import learning_rate
from unimodel.training.step import StepReport, train_step


@dataclass(slots=True)
class _StopSignal:
    """Set by SIGTERM or Ctrl-C; the loop saves and leaves at the end of the step. A second Ctrl-C leaves at once."""

    requested: bool = False

    def listen(self) -> None:
        def on_signal(number: int, frame: FrameType | None) -> None:
            del frame
            if self.requested and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.requested = True

        signal.signal(signal.SIGINT, on_signal)
        signal.signal(signal.SIGTERM, on_signal)


def train(config: RunConfig) -> None:
    """Trains all stages of `config` that are not done yet; returns at once when all are.

    Raises Stopped after a signal, ValueError for a config that differs from the run's, FloatingPointError for a loss
    that is not finite, and OSError when a checkpoint cannot be written.
    """
    run = RunFolder(config.folder)
    device = start_process_group(config.engine)
    is_main = dist.get_rank() == 0
    bundle = load_run_bundle(run)
    checkpoint = newest_checkpoint(
        run.checkpoints, lambda message: say(f"warning: {message}", quiet=not is_main, log=run.log)
    )
    if checkpoint is not None:
        require_same_config(config, checkpoint)
    last_step = checkpoint.position.step if checkpoint else 0
    if is_main:
        run.store_config(config)
        for lines in (run.metrics, run.timing, run.quarantine):
            truncate_json_lines(lines, last_step)
    stop = _StopSignal()
    stop.listen()
    try:
        for name, stage in config.ordered_stages:
            if checkpoint is not None and is_done(config, checkpoint, name):
                continue
            trainer = _StageTrainer(config, run, bundle, device, name, stage, checkpoint)
            checkpoint = trainer.run_stage(stop)
    except WorkerError as error:
        raise RunError(
            f"{error}; killed often means out of memory: lower data.workers, or run the same command again to go on "
            "from the last checkpoint"
        ) from None


class _StageTrainer:
    """Everything one stage needs between its first and its last step."""

    def __init__(
        self,
        config: RunConfig,
        run: RunFolder,
        bundle: TokenizerBundle,
        device: torch.device,
        name: str,
        stage: StageConfig,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.config, self.run, self.bundle, self.name, self.stage = config, run, bundle, name, stage
        self.device = device
        self.is_main = dist.get_rank() == 0
        resumed = checkpoint is not None and checkpoint.position.stage == name
        before = checkpoint.position if checkpoint else None
        self.position = (
            before
            if resumed and before is not None
            else TrainPosition(before.step if before else 0, name, 0, False, StreamState())
        )
        weights = checkpoint.weights() if checkpoint else read_initial_weights(config.initial_weights)
        backbone = Backbone(build_decoder(config.backbone, bundle.vocabulary, config.seed))
        report = load_by_name(backbone, weights, whole=checkpoint is not None)
        freeze(backbone, stage.freeze)
        if not resumed:
            say(f"stage {stage.number} {name}: {stage.steps} steps; {report}", quiet=not self.is_main, log=run.log)
        self.engine = build_engine(backbone, config.engine, stage, device)
        self.state = NamedState(self.engine)
        self._restore_optimizer(checkpoint, resumed, weights)
        tokens = {source: run.tokens_of(source, "train") for source in source_names(config)}
        data = StageData(tokens, bundle.builder, name, stage, config.seed)
        ranks = {"rank": dist.get_rank(), "num_ranks": dist.get_world_size()}
        self.stream = data.stream(self.position.stream, bundle.pad_id, **ranks, workers=config.data.workers)

    def _restore_optimizer(self, checkpoint: Checkpoint | None, resumed: bool, weights: dict[str, Tensor]) -> None:
        averaging = self.stage.optimizer.ema_decay > 0
        carried = checkpoint is not None and not resumed and self.stage.carry_optimizer
        self.state.initialise(self.position.stage_step, averaging)
        if checkpoint is None:
            return
        self.state.set_weights(weights)
        if resumed or carried:
            missing = self.state.set_optimizer_state(checkpoint.optimizer_state(), MOMENTS)
            assert carried or not missing, missing
        if averaging and resumed:
            average = {f"{name}.{AVERAGE_KEY}": value for name, value in checkpoint.weights(averaged=True).items()}
            self.state.set_optimizer_state(average, (AVERAGE_KEY,))
        elif averaging:
            self.state.set_optimizer_state({f"{n}.{AVERAGE_KEY}": v for n, v in weights.items()}, (AVERAGE_KEY,))

    def run_stage(self, stop: _StopSignal) -> Checkpoint:
        """Trains from the current position to the stage's end; returns its last checkpoint."""
        title = f"stage {self.stage.number} {self.name}"
        first = self.position.stage_step
        bar = ProgressBar(title, self.stage.steps, start=first, quiet=not self.is_main, log=self.run.log)
        with bar:
            for stage_step in range(first, self.stage.steps):
                began = time.monotonic()
                rate = self._set_learning_rate(stage_step)
                step = next(self.stream)
                loaded = time.monotonic()
                report = train_step(
                    self.engine,
                    step.batch.to(self.device),
                    self.stage,
                    self.bundle.vocabulary,
                    bad_samples=len(step.bad_samples),
                    stop_requested=stop.requested,
                )
                if self.stage.optimizer.ema_decay > 0:
                    self.state.update_average(self.stage.optimizer.ema_decay)
                done = stage_step + 1 == self.stage.steps
                self.position = TrainPosition(self.position.step + 1, self.name, stage_step + 1, done, step.state)
                if report.bad_samples:
                    limit = self.config.data.max_bad_samples
                    quarantine(self.run, self.position.step, step.bad_samples, limit)
                seconds = time.monotonic() - began
                self._write_metrics(step, report, rate, seconds, loaded - began)
                bar.advance(1, describe(report, seconds))
                if done or report.stop_requested or (stage_step + 1) % self.config.checkpoint.every_steps == 0:
                    self.save()
                if report.stop_requested and not done:
                    raise Stopped(f"stopped at step {self.position.step}, saved; run the same command again to go on")
        checkpoint = newest_checkpoint(self.run.checkpoints, lambda message: say(message, quiet=not self.is_main))
        assert checkpoint is not None
        self.stream.close()
        self.engine.destroy()
        return checkpoint

    def save(self) -> None:
        """Publishes a checkpoint of the current position. Collective: every rank gathers, rank 0 writes."""
        tensors = {WEIGHTS: self.state.weights(), OPTIMIZER: self.state.optimizer_state(MOMENTS)}
        if self.stage.optimizer.ema_decay > 0:
            average = self.state.optimizer_state((AVERAGE_KEY,))
            averaged = {name.removesuffix(f".{AVERAGE_KEY}"): value for name, value in average.items()}
            tensors[AVERAGE] = tensors[WEIGHTS] | averaged
        if self.is_main:
            save_checkpoint(self.run.checkpoints, self.position, settings_of(self.config), tensors)
            prune_checkpoints(self.run.checkpoints, self.name, self.config.checkpoint.keep_last)
        dist.barrier()

    def _set_learning_rate(self, stage_step: int) -> float:
        rate = learning_rate(stage_step, self.stage.steps, self.stage.optimizer)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _write_metrics(
        self, step: StepBatch, report: StepReport, rate: float, seconds: float, loading_seconds: float
    ) -> None:
        if not self.is_main:
            return
        sources: Counter[str] = Counter()
        for entry, tokens in zip(self.stage.mixture, step.tokens, strict=True):
            sources[f"tokens/{entry_name(entry)}"] += tokens
        metrics = {
            "step": self.position.step,
            "stage": self.name,
            "loss": report.loss,
            **{f"loss/{name}": value for name, value in report.objective_losses.items()},
            **{f"nats/{name}": value for name, value in report.modality_nats.items()},
            **{f"accuracy/{name}": value for name, value in report.modality_accuracy.items()},
            "learning_rate": rate,
            "gradient_norm": report.gradient_norm,
            "tokens": report.tokens,
            **sources,
            "padding_fraction": round(report.padding_fraction, 6),
        }
        timing = {
            "step": self.position.step,
            "seconds": round(seconds, 4),
            "loading_seconds": round(loading_seconds, 4),
            "loading_share": round(loading_seconds / seconds, 4),
            "tokens_per_second": round(report.tokens / seconds, 1),
        }
        append_json_line(self.run.metrics, metrics)
        append_json_line(self.run.timing, timing)


def describe(report: StepReport, seconds: float) -> str:
    """The part of a progress line that the step measured."""
    losses = " ".join(f"{name} {value:.3f}" for name, value in report.objective_losses.items())
    accuracy = " ".join(f"{name} {100 * value:.0f}%" for name, value in report.modality_accuracy.items())
    return f"loss {losses} | {accuracy} | {report.tokens / seconds:,.0f} tokens/s"
