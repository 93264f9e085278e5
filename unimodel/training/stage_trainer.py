"""One stage, from its first step to its last."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist

from data_pipelines.stream.loader import StepBatch
from data_pipelines.stream.plan import StreamState
from unimodel.backbone.sequence_parallel import SequenceGroup
from unimodel.batch import PackedBatch
from unimodel.config import RunConfig, StageConfig
from unimodel.errors import Stopped
from unimodel.observe.progress import ProgressBar, say
from unimodel.observe.trackers import Trackers
from unimodel.run_folder import RunFolder, append_json_line, read_json_lines
from unimodel.tokenizers.bundle import TokenizerBundle
from unimodel.tokenizers.finished import source_names
from unimodel.training.checkpoint import Checkpoint, TrainPosition
from unimodel.training.checkpoint_writer import CheckpointWriter
from unimodel.training.collective import from_main_rank
from unimodel.training.data import StageData
from unimodel.training.device_memory import COPY, STATES, memory_for
from unimodel.training.engine import build_engine
from unimodel.training.faults import LossWatch, RollBackError
from unimodel.training.initial_weights import MEMORY, load_by_name, read_initial_weights
from unimodel.training.metrics import counted_losses, describe, metrics_line, skips_in_a_row, timing_line
from unimodel.training.named_state import NamedState
from unimodel.training.observer import StageObserver
from unimodel.training.optimizer import freeze
from unimodel.training.own_rollout import with_own_frames
from unimodel.training.quarantine import quarantine, quarantine_step
from unimodel.training.schedule import learning_rate
from unimodel.training.stage_model import build_stage_model
from unimodel.training.step import StepOutcome, StepReport, train_step
from unimodel.training.stop_signal import StopSignal
from unimodel.training.stored_state import AVERAGE, WEIGHT, StoredState
from unimodel.training.watchdog import Watchdog


@dataclass(frozen=True, slots=True)
class RunContext:
    """What all stages of a run share on one rank."""

    config: RunConfig
    run: RunFolder
    bundle: TokenizerBundle
    device: torch.device
    writer: CheckpointWriter
    watchdog: Watchdog | None
    stop: StopSignal
    sequence: SequenceGroup
    trackers: Trackers


class StageTrainer:
    """Everything one stage needs. With a `jump`, after going back, its data goes on from there instead of from where
    the checkpoint was. All methods are collective."""

    def __init__(
        self,
        context: RunContext,
        name: str,
        stage: StageConfig,
        checkpoint: Checkpoint | None,
        jump: StreamState | None = None,
    ) -> None:
        self.context, self.name, self.stage = context, name, stage
        config, run, bundle = context.config, context.run, context.bundle
        self.is_main = dist.get_rank() == 0
        before = checkpoint.position if checkpoint else None
        resumed = before is not None and before.stage == name
        if before is None or not resumed:
            updates = before.updates if before and stage.carry_optimizer else 0
            before = TrainPosition(before.step if before else 0, name, 0, False, updates, StreamState())
        self.position = before
        if jump is not None:
            self.position = replace(self.position, stream=jump)
        stored = checkpoint.state() if checkpoint else None
        # What draws is the moving average, so that is what is aligned.
        self.starts_from_average = stage.alignment is not None and not resumed
        averaged = self.starts_from_average
        weights = stored.weights(averaged=averaged) if stored else read_initial_weights(config.initial_weights)
        backbone = build_stage_model(config, stage, bundle, run)
        report = load_by_name(backbone, weights, whole=checkpoint is not None, but="" if resumed else MEMORY)
        freeze(backbone, stage.freeze)
        frozen = {name: p.detach().clone() for name, p in backbone.named_parameters() if not p.requires_grad}
        if not resumed:
            say(f"stage {stage.number} {name}: {stage.steps} steps; {report}", quiet=not self.is_main, log=run.log)
        with memory_for(STATES):
            self.engine = build_engine(backbone, config.engine, stage, context.device, context.sequence)
            self.state = NamedState(self.engine, frozen)
            self._restore(stored, resumed)
        tokens = {source: run.tokens_of(source, "train") for source in source_names(config)}
        self.data = StageData(tokens, bundle.builder, name, stage, config.seed)
        rows_of, workers = context.sequence.rows_of(), config.data.workers
        self.stream = self.data.stream(self.position.stream, bundle.pad_id, **rows_of, workers=workers)
        lines = read_json_lines(run.metrics) if self.is_main else []
        losses = counted_losses(lines, name)[-config.faults.spike_window_steps :]
        losses, self.skips_in_a_row = from_main_rank((losses, skips_in_a_row(lines, name)))
        self.losses = LossWatch(config.faults, losses)
        self.saving_seconds = 0.0  # since the last line of timing
        self.observer = StageObserver(config, stage, run, self.engine, bundle.vocabulary, context.device)
        self.aligner = None
        if stage.alignment is not None:
            # Not before: environments bring SDL along, which takes signals over that end a rank.
            from unimodel.training.alignment_setup import build_aligner

            self.aligner = build_aligner(config, run, bundle, name, self.engine, context.device)

    def _restore(self, stored: StoredState | None, resumed: bool) -> None:
        averaging = self.stage.optimizer.ema_decay > 0
        self.state.initialise(self.position.updates, averaging)
        if stored is None:
            return
        self.state.set_weights(stored, averaged=self.starts_from_average)
        if resumed or self.stage.carry_optimizer:
            missing = self.state.set_moments(stored)
            assert not (resumed and missing), missing
        if averaging:
            self.state.set_average(stored, AVERAGE if resumed or self.starts_from_average else WEIGHT)

    def run_stage(self) -> None:
        """Trains from the current position to the stage's end, which is saved.

        Raises Stopped when asked to, RollBackError when too many steps in a row were skipped.
        """
        title = f"stage {self.stage.number} {self.name}"
        first, log = self.position.stage_step, self.context.run.log
        with ProgressBar(title, self.stage.steps, start=first, quiet=not self.is_main, log=log) as bar:
            for stage_step in range(first, self.stage.steps):
                if self.position.stage_done:  # before its last step, having gone as far as it may
                    break
                seconds, outcome = self._step(stage_step)
                bar.advance(1, describe(outcome, seconds))
                stops = outcome.report.told[1] > 0
                self._beat(pause=stops or self.position.stage_done)
                # Not amid steps that are skipped: going back is to before them.
                due = (stage_step + 1) % self.context.config.checkpoint.every_steps == 0 and not self.skips_in_a_row
                if stops or self.position.stage_done or due:
                    began = time.monotonic()
                    self.save(wait=stops or self.position.stage_done)
                    self.saving_seconds += time.monotonic() - began
                if stops and not self.position.stage_done:
                    message = f"stopped at step {self.position.step}, saved; run the same command again to go on"
                    raise Stopped(message, by_hand=self.context.stop.by_hand)

    def _step(self, stage_step: int) -> tuple[float, StepOutcome]:
        """One step and all that follows from it, but for the checkpoint; its seconds and what became of it."""
        began = time.monotonic()
        rate = self._set_learning_rate(stage_step)
        before = self.position.stream
        self.observer.begin(self.position.step + 1)
        step = next(self.stream)
        if self.context.sequence.rank > 0:  # the first of those that share these rows tells of them
            step = replace(step, bad_samples=())
        loading_seconds = time.monotonic() - began
        tell = (float(len(step.bad_samples)), float(self.context.stop.requested), *self.context.writer.written())
        outcome = self._learn(step.batch.to(self.context.device), stage_step, (*tell, *self.observer.tell()))
        report = outcome.report
        bad_samples, _, written, failed, *rank_seconds = report.told
        self.context.writer.settle(written, failed)
        done = stage_step + 1 == self.stage.steps or outcome.ends_stage
        updates = self.position.updates + outcome.updates
        self.position = TrainPosition(self.position.step + 1, self.name, stage_step + 1, done, updates, step.state)
        if bad_samples:
            limit = self.context.config.data.max_bad_samples
            quarantine(self.context.run, self.position.step, step.bad_samples, limit)
        norms = self.observer.end(loading_seconds, rank_seconds)
        seconds = time.monotonic() - began
        if self.is_main:
            metrics = metrics_line(self.position, self.stage, step, report, rate) | norms | outcome.figures
            append_json_line(self.context.run.metrics, metrics)
            timing = timing_line(self.position, report, seconds, loading_seconds, self.saving_seconds)
            timing |= self.observer.speed(report, seconds)
            append_json_line(self.context.run.timing, timing)
            self.context.trackers.log(self.position.step, metrics | timing)
        self.saving_seconds = 0.0
        self._count(step, report, before)
        return seconds, outcome

    def _learn(self, batch: PackedBatch, stage_step: int, tell: tuple[float, ...]) -> StepOutcome:
        """From this rank's batch; a stage that aligns draws its own answers first."""
        if self.aligner is not None:
            outcome = self.aligner.step(batch, stage_step, tell)
            if outcome.ends_stage:
                message = f"KL {outcome.figures['kl']:.4f} nats per token, more than max_kl: the stage ends here"
                say(message, quiet=not self.is_main, log=self.context.run.log)
            return outcome
        vocabulary, seed = self.context.bundle.vocabulary, (self.context.config.seed, self.name)
        batch = with_own_frames(
            self.engine, self.context.sequence, batch, self.stage, vocabulary, stage_step=stage_step, seed=seed
        )
        report = train_step(self.engine, batch, self.stage, vocabulary, tell, loss_limit=self.losses.limit)
        return StepOutcome(report, int(not report.skipped))

    def _count(self, step: StepBatch, report: StepReport, before: StreamState) -> None:
        """Takes the step into account, or lists its samples when it was skipped. Raises RollBackError."""
        if not report.skipped:
            self.skips_in_a_row = 0
            self.losses.add(report.loss)
            if self.stage.optimizer.ema_decay > 0:
                self.state.update_average(self.stage.optimizer.ema_decay)
            return
        self.skips_in_a_row += 1
        reason = f"loss {report.loss:g}, limit {self.losses.limit:g}, gradient norm {report.gradient_norm}"
        if self.is_main:
            quarantine_step(self.context.run, self.position.step, self.data, before, reason)
        if self.skips_in_a_row >= self.context.config.faults.max_skips:
            raise RollBackError(f"{self.skips_in_a_row} steps in a row were skipped ({reason})")

    def save(self, *, wait: bool) -> None:
        """Begins a checkpoint of the current position; with `wait` it is on disk when this returns.

        Raises OSError on all ranks when it was waited for and could not be written.
        """
        self.observer.before_saving()
        writer = self.context.writer
        if writer.is_busy:
            writer.finish()
        with memory_for(COPY):
            writer.start(self.position, self.state.held())
        if wait and not writer.finish():
            raise OSError(
                f"the checkpoint of step {self.position.step} could not be written: "
                "free disk space and run the same command again"
            )

    def close(self) -> None:
        """Ends the workers and the engine, and what is being saved of it."""
        self._beat(pause=True)
        self.context.writer.finish()
        self.observer.close()
        self.stream.close()
        self.engine.destroy()

    def _beat(self, *, pause: bool) -> None:
        if self.context.watchdog is not None:
            (self.context.watchdog.pause if pause else self.context.watchdog.beat)()

    def _set_learning_rate(self, stage_step: int) -> float:
        rate = learning_rate(stage_step, self.stage.steps, self.stage.optimizer)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        return rate
