"""What is watched while a stage trains, beyond its losses. Nothing here changes a weight or a loss."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from unimodel.backbone.flops import decoder_flops
from unimodel.config import RunConfig, StageConfig
from unimodel.observe.clock import ForwardClock
from unimodel.observe.devices import device_peak_tflops
from unimodel.observe.profile import ProfileWindow
from unimodel.run_folder import RunFolder, append_json_line
from unimodel.training.collective import from_all_ranks
from unimodel.training.modality_gradients import ModalityGradients
from unimodel.training.module_check import ModuleCheck
from unimodel.training.rank_times import RankTimes
from unimodel.training.replica_check import check_replicas
from unimodel.training.step import StepReport
from unimodel.vocabulary import Vocabulary


class StageObserver:
    """Hangs its hooks on the backbone of one engine; the loop calls it around every step, on all ranks."""

    def __init__(
        self,
        config: RunConfig,
        stage: StageConfig,
        run: RunFolder,
        engine: Any,
        vocabulary: Vocabulary,
        device: torch.device,
    ) -> None:
        self._settings, self._run, self._backbone, self._device = config.observe, run, engine.module, device
        self._step, self._compared = 0, False
        self._rank, self._num_ranks = dist.get_rank(), dist.get_world_size()
        self._hosts: list[str] = from_all_ranks(socket.gethostname())
        decoder, length = self._backbone.decoder, stage.batch.row_tokens
        self._per_token = decoder_flops(decoder, tokens=1, length=length, targets=0)
        self._per_target = decoder_flops(decoder, tokens=0, length=length, targets=1)
        self._peak = self._settings.peak_tflops or device_peak_tflops(device)
        self._times = RankTimes(ForwardClock(self._backbone, device), self._hosts, self._settings.ranks_every_steps)
        self._gradients = ModalityGradients(self._backbone, vocabulary, self._settings.gradient_norms_every_steps)
        self._profile = self._profile_window()
        if self._settings.check_replicas_every_steps:
            self._backbone.register_forward_hook(lambda *_: self._compare())
        if self._settings.check_modules:
            in_forward = config.engine.zero == 3 or config.engine.sequence_parallel > 1
            ModuleCheck(self._backbone, device, stepwise=in_forward)

    def begin(self, step: int) -> None:
        """A step of the run, counted from 1."""
        self._step, self._compared = step, False
        self._gradients.begin(step, self._device)
        if self._profile is not None:
            self._profile.step_begins(step)

    def tell(self) -> tuple[float, ...]:
        """What this rank adds to the sums of the step."""
        return self._times.tell(self._step)

    def end(self, loading_seconds: float, sums: Sequence[float]) -> dict[str, float | None]:
        """After the update; `sums` are those of what the ranks told. Returns what the config determines: gradient
        norms, in a step that they are due."""
        if self._profile is not None:
            self._profile.step_ended(self._step)
        self._times.add(loading_seconds)
        if sums and self._rank == 0:
            append_json_line(self._run.ranks, self._times.report(self._step, sums))
        return self._gradients.norms()

    def speed(self, report: StepReport, seconds: float) -> dict[str, float]:
        """For the line of timing. `mfu` is there where the peak of the device is known."""
        operations = report.tokens * self._per_token + report.targets * self._per_target
        tflops = operations / seconds / self._num_ranks / 1e12
        speed = {"tflops_per_second_per_device": round(tflops, 6)}
        return speed if self._peak is None else speed | {"mfu": round(tflops / self._peak, 6)}

    def before_saving(self) -> None:
        """Raises LostError, so that corrupted weights are not saved."""
        if self._settings.check_replicas_every_steps:
            check_replicas(self._backbone, self._hosts, self._step)

    def close(self) -> None:
        if self._profile is not None:
            self._profile.close()

    def _compare(self) -> None:
        every_steps = self._settings.check_replicas_every_steps
        if every_steps and self._step % every_steps == 0 and not self._compared:
            self._compared = True
            check_replicas(self._backbone, self._hosts, self._step)

    def _profile_window(self) -> ProfileWindow | None:
        window = self._settings.profile
        if window is None or (window.ranks == "main" and self._rank != 0):
            return None
        return ProfileWindow(self._run.profile, window.first_step, window.first_step + window.steps - 1, self._rank)
