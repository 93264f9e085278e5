"""Datasets that the `datasets` library loads, streamed from the Hub or read from this disk; no code of theirs runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_pipelines.sources.item import Block, Dropped, EncodedSample
from data_pipelines.sources.row import row_sample
from data_pipelines.sources.settings import HuggingFaceSource
from data_pipelines.sources.tables import named_row

SAVED_FILES = ("state.json", "dataset_dict.json")
"""One of them is in every folder that `save_to_disk` made."""


def list_dataset(source: HuggingFaceSource) -> list[Block]:
    """Blocks of rows of a dataset on this disk, of the shards of a streamed one.

    Raises ValueError naming a column that does not exist, FileNotFoundError or ValueError when it cannot be loaded.
    """
    dataset = _load(source.model_dump_json())
    if dataset.column_names is not None:
        for column in source.columns.names:
            if column not in dataset.column_names:
                have = ", ".join(sorted(dataset.column_names))
                raise ValueError(f"source.columns: {source.dataset} has no column '{column}'; it has {have}")
    if not _is_saved(source):
        count = dataset.num_shards
        return [Block(f"shard {shard} of {count}", {"shard": shard, "of": count}, None) for shard in range(count)]
    rows, size = len(dataset), source.rows_per_block
    return [
        Block(f"rows {first} ..", {"first": first, "stop": min(rows, first + size)}, min(size, rows - first))
        for first in range(0, rows, size)
    ]


def read_dataset(
    source: HuggingFaceSource, provenance: dict[str, Any], block: Block
) -> Iterator[EncodedSample | Dropped]:
    """One sample per row, named by the id column or by shard and row number."""
    dataset = _load(source.model_dump_json())
    if "shard" in block.place:
        rows = dataset.shard(num_shards=block.place["of"], index=block.place["shard"])
        first, prefix = 0, f"{source.split}-{block.place['shard']:05d}"
    else:
        first, prefix = block.place["first"], source.split
        rows = dataset.select(range(first, block.place["stop"]))
    root = Path(source.dataset) if Path(source.dataset).is_dir() else None
    for number, values in enumerate(rows, start=first):
        label = f"{prefix}, row {number}"
        about = provenance | {"dataset": source.dataset, "row": label}
        if source.revision:
            about["revision"] = source.revision
        row = named_row(_local(values, root), source.columns, label, f"{prefix}-{number:08d}", root, about)
        yield row if isinstance(row, Dropped) else row_sample(row, source.picture_format, source.sound)


@lru_cache(maxsize=1)
def _load(settings: str) -> Any:
    """The split, with pictures and sounds as their bytes; a process loads it once for all its blocks."""
    source = HuggingFaceSource.model_validate_json(settings)
    import datasets

    try:
        if _is_saved(source):
            dataset = datasets.load_from_disk(source.dataset)
            dataset = dataset[source.split] if isinstance(dataset, datasets.DatasetDict) else dataset
        else:
            dataset = datasets.load_dataset(
                source.dataset,
                source.configuration,
                split=source.split,
                revision=source.revision,
                data_files=list(source.data_files) or None,
                streaming=True,
            )
    except KeyError:
        raise ValueError(f"source.split: {source.dataset} has no split '{source.split}'") from None
    except (OSError, ValueError):
        raise
    except Exception as error:  # the library and its network code have many kinds
        raise ValueError(f"{source.dataset} cannot be loaded ({type(error).__name__}: {error})") from None
    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    return dataset


def _is_saved(source: HuggingFaceSource) -> bool:
    return any((Path(source.dataset) / name).is_file() for name in SAVED_FILES)


def _local(values: dict[str, Any], root: Path | None) -> dict[str, Any]:
    """File names below the dataset's folder, as `datasets` makes them absolute."""
    if root is None:
        return values
    prefix = f"{root.resolve()}{os.sep}"
    return {
        name: value | {"path": value["path"].removeprefix(prefix)}
        if isinstance(value, dict) and isinstance(value.get("path"), str)
        else value
        for name, value in values.items()
    }
