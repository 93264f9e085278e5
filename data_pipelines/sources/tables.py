"""Rows of JSON lines and Parquet files, columns of which are pictures, texts and sounds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.sources.files import list_files, read_inside, relative_name
from data_pipelines.sources.item import UNREADABLE, Block, Dropped, EncodedSample, safe_key
from data_pipelines.sources.row import Row, row_sample
from data_pipelines.sources.settings import Columns, TablesSource

SUFFIXES = (".jsonl", ".parquet")
MAX_LINE_BYTES = 1 << 26
BATCH_ROWS = 64


def list_rows(source: TablesSource) -> list[Block]:
    """Blocks of rows: byte ranges of JSON lines, row groups of Parquet. Raises ValueError naming a broken file."""
    blocks: list[Block] = []
    for path in list_files(source.path, SUFFIXES):
        name = relative_name(source.path, path)
        if path.suffix.lower() == ".parquet":
            blocks += _row_groups(path, name, source.columns)
        else:
            blocks += _line_ranges(path, name, source.rows_per_block)
    return blocks


def read_rows(source: TablesSource, provenance: dict[str, Any], block: Block) -> Iterator[EncodedSample | Dropped]:
    """One sample per row, named by the id column or by file and row number."""
    name = block.place["file"]
    path = source.path if source.path.is_file() else source.path / name
    rows = _parquet_rows(path, block, source.columns) if "group" in block.place else _lines(path, block)
    for number, row in rows:
        label = f"{name}, row {number}"
        if isinstance(row, str):
            yield Dropped(label, UNREADABLE, row)
            continue
        identity = f"{name.rpartition('.')[0]}-{number:08d}"
        made = named_row(row, source.columns, label, identity, source.path, provenance | {"file": name, "row": number})
        yield made if isinstance(made, Dropped) else row_sample(made, source.picture_format, source.sound)


def named_row(
    values: dict[str, Any],
    columns: Columns,
    name: str,
    identity: str,
    root: Path | None,
    about: dict[str, Any],
) -> Row | Dropped:
    """A row of a table by the names of its columns; files it names are read below `root`, or refused without one."""
    if missing := [column for column in columns.names if column not in values]:
        return Dropped(name, UNREADABLE, f"no value for {', '.join(missing)}")
    try:
        image = _payload(values[columns.image], root) if columns.image else None
        audio = _payload(values[columns.audio], root) if columns.audio else None
        text = values[columns.text] if columns.text else None
        if not isinstance(text, str | bytes | None):
            raise ValueError(f"column {columns.text} holds {type(text).__name__} where text is expected")
        kept = {column: _plain(column, values[column]) for column in columns.keep}
    except ValueError as error:
        return Dropped(name, UNREADABLE, str(error))
    key = safe_key(str(values[columns.id])) if columns.id else safe_key(identity)
    return Row(key, name, image, text, audio, kept | about)


def _payload(value: Any, root: Path | None) -> bytes | None:
    """Bytes of a picture or sound: given as such, as {"bytes", "path"}, or as a path."""
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if value is None or isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} where bytes or the name of a file are expected")
    if root is None:
        raise ValueError(f"the file {value!r} is named, but its bytes are not in the table")
    return read_inside(root, value)


def _plain(column: str, value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(f"column {column} holds {type(value).__name__}, which JSON cannot keep") from None
    return value


def _row_groups(path: Path, name: str, columns: Columns) -> list[Block]:
    try:
        with pq.ParquetFile(path) as file:
            have = set(file.schema_arrow.names)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    except Exception as error:  # pyarrow has many kinds
        raise ValueError(f"{path} is not a readable Parquet file ({error})") from None
    for column in columns.names:
        if column not in have:
            raise ValueError(f"source.columns: {path} has no column '{column}'; it has {', '.join(sorted(have))}")
    starts = [sum(sizes[:group]) for group in range(len(sizes))]
    return [
        Block(f"{name}, row group {group}", {"file": name, "group": group, "first": first, "rows": rows}, rows)
        for group, (first, rows) in enumerate(zip(starts, sizes, strict=True))
    ]


def _parquet_rows(path: Path, block: Block, columns: Columns) -> Iterator[tuple[int, dict[str, Any] | str]]:
    number = block.place["first"]
    try:
        for row in _parquet_values(path, block, columns):
            yield number, row
            number += 1
    except (pa.ArrowException, OSError) as error:  # a page is damaged: the group cannot be read further
        yield number, f"the rest of row group {block.place['group']} cannot be read ({error})"


def _parquet_values(path: Path, block: Block, columns: Columns) -> Iterator[dict[str, Any] | str]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[block.place["group"]], columns=columns.names):
            for row in range(batch.num_rows):
                try:
                    values = {name: batch.column(name)[row].as_py() for name in batch.schema.names}
                except UnicodeDecodeError as error:
                    yield f"the text is not UTF-8 (byte {error.start})"
                else:
                    yield values


def _line_ranges(path: Path, name: str, rows_per_block: int) -> list[Block]:
    blocks: list[Block] = []
    start = offset = rows = first = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            offset += len(line)
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                raise ValueError(f"{path}, row {first + rows}: a line of more than {MAX_LINE_BYTES} bytes")
            rows += 1
            if rows == rows_per_block:
                blocks.append(_line_block(name, first, rows, start, offset))
                start, first, rows = offset, first + rows, 0
    if rows:
        blocks.append(_line_block(name, first, rows, start, offset))
    return blocks


def _line_block(name: str, first: int, rows: int, start: int, stop: int) -> Block:
    place = {"file": name, "first": first, "start": start, "stop": stop}
    return Block(f"{name}, rows {first} .. {first + rows - 1}", place, rows)


def _lines(path: Path, block: Block) -> Iterator[tuple[int, dict[str, Any] | str]]:
    number = block.place["first"]
    with path.open("rb") as file:
        file.seek(block.place["start"])
        while file.tell() < block.place["stop"]:
            line = file.readline(MAX_LINE_BYTES).strip()
            if line:
                yield number, _line(line)
            number += 1


def _line(line: bytes) -> dict[str, Any] | str:
    """The row, or what is wrong with it."""
    try:
        values = json.loads(line)
    except UnicodeDecodeError as error:
        return f"the line is not UTF-8 (byte {error.start})"
    except (ValueError, RecursionError) as error:
        return f"not valid JSON ({error})"
    return values if isinstance(values, dict) else "not a JSON object"
