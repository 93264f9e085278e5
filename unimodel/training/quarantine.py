"""Samples that could not be read: left out, listed in `quarantine.jsonl`, and counted, lest a run trains on nothing.
And those of steps that were skipped, in `skipped.jsonl`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch.distributed as dist

from data_pipelines.stream.bad_sample import BadSample
from data_pipelines.stream.plan import StreamState
from unimodel.run_folder import RunFolder, append_json_line, read_json_lines
from unimodel.training.data import StageData


def quarantine(run: RunFolder, step: int, bad_samples: Sequence[BadSample], limit: int) -> int:
    """Lists the samples that the ranks left out of a step; returns how many different ones the run has left out.

    Collective: all ranks call it, rank 0 writes. Raises ValueError on all of them when there are more than `limit`.
    """
    gathered: list[list[BadSample] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, list(bad_samples))
    count = [0]
    if dist.get_rank() == 0:
        known = {(line["shard"], line["key"]) for line in read_json_lines(run.quarantine)}
        for bad in (bad for part in gathered for bad in part or []):
            append_json_line(run.quarantine, {"step": step, **asdict(bad)})
            known.add((bad.shard, bad.key))
        count = [len(known)]
    dist.broadcast_object_list(count)
    if count[0] > limit:
        raise ValueError(
            f"{count[0]} samples could not be read, more than data.max_bad_samples ({limit}): {run.quarantine} lists "
            "them; repair the shards it names or raise the limit, then run the same command again"
        )
    return count[0]


def quarantine_step(run: RunFolder, step: int, data: StageData, before: StreamState, reason: str) -> None:
    """Lists the samples of a step that was skipped; `before` is where its stream stood. One of them may be to blame."""
    append_json_line(run.skipped, {"step": step, "reason": reason, "samples": data.samples_after(before)})
