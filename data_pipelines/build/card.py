"""The dataset card: what Hugging Face shows and `datasets` reads, a pure function of the build (no date)."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import yaml

from data_pipelines.build.selection import Selection
from data_pipelines.build.settings import BuildSettings
from data_pipelines.sources.action_codes import ActionCodes

SIZE_CATEGORIES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
DROPPED_FILE = "dropped.jsonl"


def dataset_card(settings: BuildSettings, selection: Selection, actions: ActionCodes | None = None) -> bytes:
    """README.md of the data folder: front matter, provenance, counts, settings, what was dropped, what actions are."""
    counts = {split: selection.num_samples(split) for split in selection.shards}
    total = sum(counts.values())
    front: dict[str, Any] = {"license": settings.license}
    if settings.languages:
        front["language"] = list(settings.languages)
    front["size_categories"] = [next((name for most, name in SIZE_CATEGORIES if total < most), "n>1B")]
    data_files = [{"split": split, "path": f"{split}/*.tar"} for split in counts]
    front["configs"] = [{"config_name": "default", "data_files": data_files}]
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# Shards from {settings.origin}",
        "",
        f"Made by `unimodel data build` (source `{settings.source.kind}`), licence `{settings.license}`. WebDataset "
        "tars with an index beside each; read them with `unimodel`, `webdataset` or `datasets`.",
        "",
        "| split | samples | shards |",
        "|---|---|---|",
        *(f"| {split} | {count} | {len(selection.shards[split])} |" for split, count in counts.items()),
        "",
        *_fields(selection),
        *_drops(selection),
        *([] if actions is None else _actions(actions)),
        "## Settings",
        "",
        "```yaml",
        yaml.safe_dump(settings.in_the_bytes(), sort_keys=False, allow_unicode=True, width=110).rstrip(),
        "```",
    ]
    return ("\n".join(lines) + "\n").encode()


def dropped_lines(selection: Selection) -> bytes:
    """Everything that was dropped, one JSON object a line."""
    lines = (
        json.dumps({"name": d.name, "reason": d.reason, "detail": d.detail}, ensure_ascii=False)
        for d in selection.dropped
    )
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


def _fields(selection: Selection) -> list[str]:
    if len(selection.field_sets) == 1:
        return [f"Fields of every sample: {selection.field_sets[0]}.", ""]
    return [
        "Samples differ in their fields, which `datasets` refuses (`unimodel` and `webdataset` do not): "
        f"{'; '.join(selection.field_sets)}. `picture_format: png` and `min_characters: 1` make them equal.",
        "",
    ]


def _drops(selection: Selection) -> list[str]:
    if not selection.dropped:
        return [f"Nothing of the {selection.num_items} items was dropped.", ""]
    reasons = Counter(dropped.reason for dropped in selection.dropped)
    return [
        f"Dropped (`{DROPPED_FILE}` names each, of {selection.num_items} items of the source):",
        "",
        "| reason | samples |",
        "|---|---|",
        *(f"| {reason} | {reasons[reason]} |" for reason in sorted(reasons)),
        "",
    ]


def _actions(actions: ActionCodes) -> list[str]:
    """A table of what every action stands for, unless it is itself."""
    if actions.labels:
        return ["## Actions", "", f"{', '.join(f'{a} {name}' for a, name in enumerate(actions.labels))}.", ""]
    if not actions.centres:
        last = actions.start + actions.count - 1
        shift = f" less {actions.start}" if actions.start else ""
        return ["## Actions", "", f"Actions are those of the source ({actions.start} .. {last}){shift}.", ""]
    names = actions.names or tuple(str(control) for control in range(len(actions.scale)))
    rows = [*enumerate(actions.centres), ("rms error", actions.error)]
    return [
        "## Actions",
        "",
        "Actions were vectors of controls; each became the number of the nearest of these, in the units of the source "
        "(`index.json` of every split has them under `actions`). The last row is what that loses.",
        "",
        f"| action | {' | '.join(name.replace('|', '/') for name in names)} |",
        f"|{'---|' * (len(names) + 1)}",
        *(f"| {action} | {' | '.join(f'{value:g}' for value in values)} |" for action, values in rows),
        "",
    ]
