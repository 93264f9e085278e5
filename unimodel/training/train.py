"""The training loop: stages in order, each from the weights of the one before, resumable at any step.

for every stage that is not done:
    build the backbone from the last checkpoint's weights, by name
    for every step: next batch, train step, moving average, metrics, checkpoint when due
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from data_pipelines.parent_death import signal_with_parent
from data_pipelines.stream.workers import WorkerError
from unimodel.backbone.sequence_parallel import build_sequence_group
from unimodel.config import RunConfig, StageConfig
from unimodel.config_file import settings_of
from unimodel.errors import LostError, agent_pid
from unimodel.observe.progress import say
from unimodel.observe.trackers import Trackers, require_trackers
from unimodel.run_folder import RunFolder, append_json_line, truncate_json_lines
from unimodel.tokenizers.prepare import load_run_bundle
from unimodel.training.checkpoint import Checkpoint
from unimodel.training.checkpoint_writer import CheckpointWriter
from unimodel.training.device_memory import DeviceFullError, device_full
from unimodel.training.engine import start_process_group
from unimodel.training.faults import RollBackError
from unimodel.training.finished import is_done, require_same_config
from unimodel.training.health import check_nodes
from unimodel.training.resume import agreed_checkpoint, fetch_newer
from unimodel.training.stage_trainer import RunContext, StageTrainer
from unimodel.training.stop_signal import StopSignal
from unimodel.training.watchdog import Watchdog

SHOWN_BY_TRACKERS = ("name", "seed", "backbone", "stages", "engine")
"""Sections of the config. Not those of data and checkpoints: an address may carry a password."""


def train(config: RunConfig, *, check: bool = False) -> None:
    """Trains all stages of `config` that are not done yet; returns at once when all are. With a `check` all nodes are
    looked at first.

    Raises Stopped after a signal, ValueError for a config that differs from the run's, FloatingPointError for losses
    that stay not finite, LostError when another process is gone, DeviceFullError for a GPU that is too small, and
    OSError when a checkpoint cannot be written.
    """
    require_trackers(config.observe.trackers)
    run, watchdog = RunFolder(config.folder), None
    try:
        agent = agent_pid()
        if agent is not None:  # a rank whose agent was killed would go on unseen, and beside those of the next one
            signal_with_parent(signal.SIGTERM, agent)
        watchdog = _watchdog(config, run)
        device = start_process_group(config.engine)
        if check:
            check_nodes(run, device)
        _train_stages(config, run, device, watchdog)
    except WorkerError as error:
        raise LostError(
            f"{error}; killed often means out of memory: lower data.workers, or run the same command again to go on "
            "from the last checkpoint"
        ) from None
    except RuntimeError as error:
        # gloo has no exception of its own: its errors are told by the name that they carry.
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            message = str(error).splitlines()[0]
            raise LostError(
                f"rank {os.environ.get('RANK', '0')} has lost the others ({message}): run it again"
            ) from None
        raise
    finally:
        if watchdog is not None:
            watchdog.close()


def _train_stages(config: RunConfig, run: RunFolder, device: torch.device, watchdog: Watchdog | None) -> None:
    is_main = dist.get_rank() == 0

    def warn(message: str) -> None:
        say(f"warning: {message}", log=run.log)

    warn_once = warn if is_main else lambda _: None
    limit = timedelta(minutes=config.engine.communication_minutes)
    sequence = build_sequence_group(config.engine.sequence_parallel, limit)
    bundle = load_run_bundle(run)
    if config.checkpoint.upload:
        fetch_newer(run.checkpoints, config.checkpoint.upload, lambda message: say(message, log=run.log))
    checkpoint = agreed_checkpoint(run.checkpoints, warn_once)
    if checkpoint is not None:
        require_same_config(config, checkpoint)
        if is_done(config, checkpoint, config.ordered_stages[-1][0]):
            say(f"already trained: {run.path}", quiet=not is_main)
            return
    if is_main:
        run.store_config(config)
        _forget_steps_after(run, checkpoint)
        _note_start(config, run, checkpoint)
    writer = CheckpointWriter(run.checkpoints, config.checkpoint, settings_of(config), warn)
    trackers = _trackers(config, run, checkpoint)
    context = RunContext(config, run, bundle, device, writer, watchdog, StopSignal(), sequence, trackers)
    context.stop.listen()
    try:
        for name, stage in config.ordered_stages:
            if checkpoint is None or not is_done(config, checkpoint, name):
                try:
                    _train_stage(context, name, stage, checkpoint, warn_once)
                except DeviceFullError as error:
                    message = device_full(error, name, stage.batch, config.engine, dist.get_world_size())
                    raise DeviceFullError(error.part, message) from None
                checkpoint = agreed_checkpoint(run.checkpoints, warn_once)
    finally:
        writer.close()
        trackers.close()


def _note_start(config: RunConfig, run: RunFolder, checkpoint: Checkpoint | None) -> None:
    step, ranks = checkpoint.position.step if checkpoint else 0, dist.get_world_size()
    start = {"time": round(time.time(), 3), "step": step, "ranks": ranks, "zero": config.engine.zero}
    append_json_line(run.starts, start)


def _trackers(config: RunConfig, run: RunFolder, checkpoint: Checkpoint | None) -> Trackers:
    observe = config.observe
    names = observe.trackers if dist.get_rank() == 0 else ()
    shown = {name: value for name, value in settings_of(config).items() if name in SHOWN_BY_TRACKERS}
    return Trackers(names, run.path, observe.wandb_project, checkpoint.position.step if checkpoint else 0, shown)


def _watchdog(config: RunConfig, run: RunFolder) -> Watchdog | None:
    faults = config.faults
    if faults.hang_seconds is None:
        return None
    return Watchdog(faults.hang_seconds, faults.pause_seconds, run.stacks / f"rank-{os.environ.get('RANK', '0')}.txt")


def _train_stage(
    context: RunContext, name: str, stage: StageConfig, checkpoint: Checkpoint | None, warn: Callable[[str], None]
) -> None:
    """To its end, going back to the last checkpoint, and on with other data, where too many steps were skipped."""
    trainer = StageTrainer(context, name, stage, checkpoint)
    for left in reversed(range(context.config.faults.max_roll_backs + 1)):
        try:
            trainer.run_stage()
            break
        except RollBackError as too_many:
            trainer.close()
            if not left:
                raise FloatingPointError(_hopeless(str(too_many), stage.optimizer.learning_rate)) from None
            checkpoint = agreed_checkpoint(context.run.checkpoints, warn)
            warn(f"{too_many}: back to step {checkpoint.position.step if checkpoint else 0}, on with other data")
            if dist.get_rank() == 0:
                _forget_steps_after(context.run, checkpoint)
                context.trackers.go_back(checkpoint.position.step if checkpoint else 0)
            dist.barrier()
            trainer = StageTrainer(context, name, stage, checkpoint, jump=trainer.position.stream)
    trainer.close()


def _forget_steps_after(run: RunFolder, checkpoint: Checkpoint | None) -> None:
    """Their lines are written again."""
    for lines in (run.metrics, run.timing, run.ranks, run.quarantine):
        truncate_json_lines(lines, checkpoint.position.step if checkpoint else 0)


def _hopeless(reason: str, learning_rate: float) -> str:
    return (
        f"{reason}, also after going back to the last checkpoint: lower optimizer.learning_rate (now {learning_rate}) "
        "or optimizer.gradient_clip, then run the same command again"
    )
