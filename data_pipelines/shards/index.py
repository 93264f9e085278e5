"""What a folder of shards holds: `index.json`, the manifest, with one line of figures per shard.

Where every sample lies is in the tables beside the shards (`table.py`): a manifest of 100,000 shards is read in a
moment, and whoever reads some shards maps the tables of those.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipelines.shards.atomic import publish
from data_pipelines.shards.storage import Folder, Storage, as_folder, join, open_storage
from data_pipelines.shards.table import TABLE_SUFFIX

INDEX_FILE = "index.json"
MAKE_IT = "make it with `unimodel data record CONFIG` (`data build` or `data index` for data from elsewhere)"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
COLUMNS = ("file", "num_samples", "size_bytes", "sha256", "table_sha256")
LARGEST_NUMBER = 1 << 53
SEAL = b',"sha256":"%s"}'
"""How the file ends: the hash of all before it. Tables are judged by the manifest, and the manifest by this."""
SEAL_BYTES = len(SEAL % bytes(64))


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One tar file of the folder; `table_sha256` is the hash of its table."""

    file: str
    num_samples: int
    size_bytes: int
    sha256: str
    table_sha256: str

    @property
    def table_file(self) -> str:
        """Name of its table."""
        return self.file + TABLE_SUFFIX


@dataclass(frozen=True, slots=True)
class Manifest:
    """All shards of a folder, in order, and JSON-able metadata about how they were made."""

    shards: tuple[ShardEntry, ...]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Publishes it atomically: from here on the folder is a complete data set. Equal manifests, equal bytes."""
    shards = {name: [getattr(shard, name) for shard in manifest.shards] for name in COLUMNS}
    content = json.dumps({"metadata": manifest.metadata, "shards": shards}, separators=(",", ":")).encode()[:-1]
    publish(folder / INDEX_FILE, content + SEAL % hashlib.sha256(content).hexdigest().encode())


def read_manifest(folder: Folder, storage: Storage | None = None) -> Manifest:
    """Of a local folder or an address; `storage` when one is open for it.

    Raises FileNotFoundError when there is none and ValueError, naming the file, when it is malformed; from afar also
    PermissionError and StorageError.
    """
    folder = as_folder(folder)
    path = join(folder, INDEX_FILE)
    try:
        raw = (storage or open_storage(folder)).read_file(INDEX_FILE)
        content = json.loads(raw)
    except FileNotFoundError:
        exists = isinstance(folder, str) or folder.is_dir()
        found = "has no index.json" if exists else "does not exist"
        raise FileNotFoundError(f"data folder {folder} {found}: {MAKE_IT}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): delete it and {MAKE_IT}") from None
    try:
        if not isinstance(content["metadata"], dict):
            raise ValueError("metadata is not an object")
        columns = [content["shards"][name] for name in COLUMNS]
        manifest = Manifest(tuple(checked_entry(*row) for row in zip(*columns, strict=True)), content["metadata"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is malformed ({type(error).__name__}: {error}): delete it and {MAKE_IT}") from None
    if raw[-SEAL_BYTES:] != SEAL % hashlib.sha256(memoryview(raw)[:-SEAL_BYTES]).hexdigest().encode():
        raise ValueError(f"{path}: its SHA-256, at its end, does not match, bytes changed: delete it and {MAKE_IT}")
    return manifest


def checked_entry(file: Any, num_samples: Any, size_bytes: Any, sha256: Any, table_sha256: Any) -> ShardEntry:
    """An entry from a file. Raises ValueError for a name that leaves the folder or a wrong number."""
    if not isinstance(file, str) or not PLAIN_NAME.fullmatch(file):
        raise ValueError(f"shard file {file!r} is not a plain file name inside the folder, refusing to open it")
    for number in (num_samples, size_bytes):
        if not isinstance(number, int) or not 0 <= number < LARGEST_NUMBER:
            raise ValueError(f"{number!r} where a count or a size is expected")
    return ShardEntry(file, num_samples, size_bytes, str(sha256), str(table_sha256))


def split_folders(folder: Folder) -> dict[str, Folder]:
    """The folders of shards under `folder` by split name: itself if it has a manifest, else its subfolders that do
    (at an http address, where folders cannot be listed, those named test, train and validation).

    Raises FileNotFoundError when there is none.
    """
    folder = as_folder(folder)
    if _has_manifest(folder):
        return {_name(folder): folder}
    candidates = {name: join(folder, name) for name in sorted(open_storage(folder).subfolders())}
    found = {name: path for name, path in candidates.items() if _has_manifest(path)}
    if not found:
        exists = isinstance(folder, str) or folder.is_dir()
        what = "holds no finished data" if exists else "does not exist"
        raise FileNotFoundError(f"data folder {folder} {what}: {MAKE_IT}")
    return found


def _has_manifest(folder: Folder) -> bool:
    if isinstance(folder, Path):
        return (folder / INDEX_FILE).is_file()
    try:
        return bool(open_storage(folder).read_file(INDEX_FILE))
    except FileNotFoundError:
        return False


def _name(folder: Folder) -> str:
    return folder.name if isinstance(folder, Path) else folder.rsplit("/", 1)[-1]
