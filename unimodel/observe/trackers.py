"""Curves elsewhere: TensorBoard and Weights & Biases, through accelerate's trackers.

A run that goes on, or back to a checkpoint, computes steps again whose figures were sent before. TensorBoard drops the
old ones (`purge_step`). Weights & Biases keeps the first value of a step: equal to the second after a restart, which
repeats it bit for bit; after going back to other data its curve keeps the lost steps.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.extras import load_extra
from unimodel.observe.progress import say

NOT_SENT = ("step", "stage", "skipped")


def require_trackers(names: Sequence[str]) -> None:
    """Raises MissingExtraError naming a tracker that is not installed."""
    for name in names:
        load_extra(name, "track", f"observe.trackers: {name}")


class Trackers:
    """Those of one run folder, on its main rank; with no names it does nothing. Steps after `last_step` are forgotten.

    `settings` are shown beside the curves; nothing that the run prints, and no command line, is sent. A server that
    does not answer costs the curve, not the run. Raises ValueError where nobody is logged in.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, project: str, last_step: int, settings: Mapping[str, Any]
    ) -> None:
        self._folder = folder
        self._trackers: dict[str, Any] = {}
        if "tensorboard" in names:
            self._start_tensorboard(last_step)
        if "wandb" in names:
            self._start_wandb(project, settings)

    def log(self, step: int, figures: Mapping[str, Any]) -> None:
        """The numbers among `figures`, at a step of the run."""
        values = {
            name: value for name, value in figures.items() if isinstance(value, int | float) and name not in NOT_SENT
        }
        for tracker in self._trackers.values():
            tracker.log(values, step=step)

    def go_back(self, last_step: int) -> None:
        """Forgets the steps after `last_step`, where that can be done."""
        if "tensorboard" in self._trackers:
            self._trackers["tensorboard"].finish()
            self._start_tensorboard(last_step)

    def close(self) -> None:
        for tracker in self._trackers.values():
            tracker.finish()
        self._trackers.clear()

    def _start_tensorboard(self, last_step: int) -> None:
        from accelerate.tracking import TensorBoardTracker

        tracker = TensorBoardTracker("tensorboard", self._folder, purge_step=last_step + 1)
        tracker.main_process_only = False  # this is the main process, and accelerate has started none of them
        self._trackers["tensorboard"] = _started(tracker)

    def _start_wandb(self, project: str, settings: Mapping[str, Any]) -> None:
        import wandb.errors
        from accelerate.tracking import WandBTracker

        quiet = wandb.Settings(console="off", disable_git=True, disable_code=True, x_disable_meta=True)
        tracker = WandBTracker(
            project, name=self._folder.name, dir=self._folder, id=self._wandb_id(), resume="allow", settings=quiet
        )
        try:
            self._trackers["wandb"] = _started(tracker)
        except wandb.errors.UsageError as error:
            offline = "or set WANDB_MODE=offline and use `wandb sync` later"
            raise ValueError(f"observe.trackers: wandb: {error} Run `wandb login`, {offline}") from None
        except wandb.errors.Error as error:
            say(f"warning: Weights & Biases: {error}; the run goes on without it", log=self._folder / "log.txt")
            return
        tracker.store_init_configuration(dict(settings))

    def _wandb_id(self) -> str:
        """Kept in the run folder, so that a run goes on as the same curve and no other run takes it."""
        file = self._folder / "wandb-id.txt"
        if not file.exists():
            file.write_text(f"{self._folder.name}-{uuid.uuid4().hex[:8]}", encoding="utf-8")
        return file.read_text(encoding="utf-8")


def _started(tracker: Any) -> Any:
    from accelerate import PartialState

    PartialState()  # accelerate's logger asks for it
    tracker.start()
    return tracker
