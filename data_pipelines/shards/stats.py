"""What is in a data set, from its index and its small fields; no picture is decoded."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from data_pipelines.shards.index import split_folders
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.storage import Folder
from data_pipelines.sources.episode import decode_about, decode_array


def dataset_stats(folder: Folder) -> dict[str, dict[str, Any]]:
    """JSON-able statistics by split: counts of samples, shards and bytes, the lengths that the index keeps (frames,
    bytes of text, samples of sound, tokens), and for recorded episodes the distributions of lengths (steps), actions,
    captions (words), the success rate (reward > 0), missions, who played and the share with an event.

    Raises FileNotFoundError or ValueError as `ShardReader` does.
    """
    return {split: _split_stats(path) for split, path in split_folders(folder).items()}


def _split_stats(folder: Folder) -> dict[str, Any]:
    reader = ShardReader(folder)
    stats: dict[str, Any] = {
        "samples": len(reader),
        "shards": len(reader.shards),
        "shard_bytes": reader.num_bytes,
        "frames": reader.total_length("frames"),
        "lengths": {name: _lengths(reader.all_lengths(name)) for name in reader.length_names},
    }
    if not len(reader) or "frames.png" not in reader.entry(0).members:
        return stats
    return stats | _episode_stats(reader)


def _episode_stats(reader: ShardReader) -> dict[str, Any]:
    names = reader.metadata.get("action_names", [])
    actions: Counter[int] = Counter()
    lengths: list[int] = []
    words: list[int] = []
    missions: Counter[str] = Counter()
    policies: Counter[str] = Counter()
    successes = eventful = 0
    picture_bytes = 0
    for number, entry in enumerate(reader.entries()):
        wanted = ("actions.npy", "rewards.npy", "json")
        fields = {name: reader.read_field(number, name) for name in wanted}
        taken = decode_array(entry.key, fields, "actions.npy")
        about = decode_about(entry.key, fields)
        actions.update(taken.ravel().tolist())
        lengths.append(len(taken))
        picture_bytes += entry.members["frames.png"].size
        words += [len(caption.split()) for caption in about["captions"]]
        missions[about["mission"]] += 1
        policies[about["policy"]] += 1
        eventful += bool(about["events"])
        successes += bool((decode_array(entry.key, fields, "rewards.npy") > 0).any())
    return {
        "steps": sum(lengths),
        "picture_bytes_per_frame": picture_bytes / (sum(lengths) + len(lengths)),
        "steps_per_episode": _distribution(lengths),
        "actions": {names[a] if 0 <= a < len(names) else str(a): actions[a] for a in sorted(actions)},
        "success_rate": successes / len(lengths),
        "policies": dict(policies.most_common()),
        "event_fraction": eventful / len(lengths),
        "words_per_caption": _distribution(words),
        "missions": len(missions),
        "most_common_missions": dict(missions.most_common(5)),
    }


def _lengths(values: np.ndarray) -> dict[str, float]:
    return {"samples": len(values), "total": int(values.sum()), **_distribution(values)} if len(values) else {}


def _distribution(values: list[int] | np.ndarray) -> dict[str, float]:
    array = np.asarray(values)
    return {
        "min": int(array.min()),
        "median": float(np.median(array)),
        "mean": float(array.mean()),
        "max": int(array.max()),
    }
