"""The same samples through every loader.

A function `NAME(data, prepared, decode, batch, workers)` returns what makes one pass over the shuffled samples in
batches; `prepared` is a folder for the loader's own format, written once.

Imports wait: each environment has one of these libraries.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch

Decode = Callable[[bytes], np.ndarray]
Make = Callable[[], Iterable[Any]]


def sample(decode: Decode, png: bytes, text: bytes) -> dict[str, Any]:
    """What every loader makes of a sample."""
    return {"image": decode(png), **json.loads(text)}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Pictures and numbers as tensors, captions as a list."""
    return {
        "image": torch.from_numpy(np.stack([one["image"] for one in samples])),
        "numbers": torch.tensor([one["numbers"] for one in samples]),
        "caption": [one["caption"] for one in samples],
    }


def raw(data: Path, prepared: Path, decode: Decode, batch: int, workers: int) -> Make:
    """The limit: reading and decoding in one process, nothing collated, nothing handed over."""
    from data_pipelines.shards.reader import ShardReader

    del prepared, workers
    reader = ShardReader(data)

    def run() -> Iterable[Any]:
        for start in range(0, len(reader) - batch, batch):
            yield {"image": [_read(reader, decode, number)["image"] for number in range(start, start + batch)]}

    return run


def unimodel(data: Path, prepared: Path, decode: Decode, batch: int, workers: int) -> Make:
    from data_pipelines.shards.reader import ShardReader
    from data_pipelines.stream.samples import SampleSettings, SampleStream

    del prepared
    stream = SampleStream(
        ShardReader(data),
        lambda key, fields: sample(decode, fields["png"], fields["json"]),
        SampleSettings(batch, workers=workers),
    )
    return lambda: (made.samples for made in stream)


def webdataset(data: Path, prepared: Path, decode: Decode, batch: int, workers: int) -> Make:
    import webdataset as wds

    del prepared
    urls = [str(path) for path in sorted(data.glob("*.tar"))]
    shards = wds.WebDataset(urls, shardshuffle=len(urls), seed=0, empty_check=False)
    samples = shards.shuffle(1000).map(lambda one: sample(decode, one["png"], one["json"]))
    batches = samples.batched(batch, collation_fn=collate, partial=False)
    return lambda: wds.WebLoader(batches, batch_size=None, num_workers=workers)


def streaming(data: Path, prepared: Path, decode: Decode, batch: int, workers: int) -> Make:
    # It asks torchvision for two names that are not used here, and that of PyPI does not load beside a torch for CPUs.
    for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
    vars(sys.modules["torchvision.datasets"])["VisionDataset"] = object
    vars(sys.modules["torchvision.transforms.functional"])["to_tensor"] = None
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    if not (prepared / "index.json").exists():
        with MDSWriter(out=str(prepared), columns={"png": "bytes", "json": "bytes"}) as writer:
            for one in _raw_samples(data):
                writer.write(one)

    class Samples(StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            one = super().__getitem__(at)
            return sample(decode, one["png"], one["json"])

    samples = Samples(local=str(prepared), shuffle=True, batch_size=batch)
    loader = torch.utils.data.DataLoader(
        samples, batch_size=batch, num_workers=workers, collate_fn=collate, drop_last=True
    )
    return lambda: loader


def litdata(data: Path, prepared: Path, decode: Decode, batch: int, workers: int) -> Make:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    if not (prepared / "index.json").exists():
        prepared.mkdir(parents=True, exist_ok=True)
        writer = BinaryWriter(str(prepared), chunk_bytes=1 << 26)
        for number, one in enumerate(_raw_samples(data)):
            writer.add_item(number, one)
        writer.done()
        writer.merge()

    class Samples(StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            one = super().__getitem__(at)
            return sample(decode, bytes(one["png"]), bytes(one["json"]))

    samples = Samples(str(prepared), shuffle=True, drop_last=True)
    loader = StreamingDataLoader(samples, batch_size=batch, num_workers=workers, collate_fn=collate, drop_last=True)
    return lambda: loader


def torchdata(data: Path, prepared: Path, decode: Decode, batch: int, workers: int) -> Make:
    """It has no storage of its own: it gets our reader."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    del prepared
    loader = StatefulDataLoader(
        _MapStyle(data, decode), batch_size=batch, shuffle=True, num_workers=workers, collate_fn=collate, drop_last=True
    )
    return lambda: loader


def energon(data: Path, prepared: Path, decode: Decode, batch: int, workers: int) -> Make:
    import shutil

    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        Sample,
        WorkerConfig,
        basic_sample_keys,
        get_loader,
        get_train_dataset,
        stateless,
    )
    from megatron.energon.flavors.webdataset import BaseWebdatasetFactory

    if not (prepared / ".nv-meta" / "dataset.yaml").exists():
        prepared.mkdir(parents=True, exist_ok=True)
        for path in data.glob("*.tar"):
            shutil.copy(path, prepared)
        names = sorted(path.name for path in prepared.glob("*.tar"))
        BaseWebdatasetFactory.prepare_dataset(
            prepared, names, split_parts_ratio=[("train", 1.0)], workers=2, tar_index_only=False
        )
        described = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
        (prepared / ".nv-meta" / "dataset.yaml").write_text(described)

    @dataclass
    class Picture(Sample):
        content: dict[str, Any]

    @stateless
    def cook(one: dict[str, Any]) -> Picture:
        return Picture(**basic_sample_keys(one), content=sample(decode, one["png"], one["json"]))

    class Encoder(DefaultTaskEncoder):
        decoder = None
        cookers = (Cooker(cook),)

        @stateless
        def batch(self, samples: list[Any]) -> Any:
            return collate([one.content for one in samples])

        @stateless
        def encode_batch(self, batch: Any) -> Any:
            return batch

    settings = WorkerConfig(rank=0, world_size=1, num_workers=workers)
    samples = get_train_dataset(
        prepared,
        batch_size=batch,
        shuffle_buffer_size=1000,
        max_samples_per_sequence=100,
        worker_config=settings,
        task_encoder=Encoder(),
    )
    loader = get_loader(samples)
    return lambda: loader


def datasets(data: Path, prepared: Path, decode: Decode, batch: int, workers: int) -> Make:
    from datasets import Image, load_dataset

    del prepared
    files = [str(path) for path in sorted(data.glob("*.tar"))]
    rows = load_dataset("webdataset", data_files={"train": files}, split="train", streaming=True)
    rows = rows.cast_column("png", Image(decode=False)).shuffle(seed=0, buffer_size=1000)

    def read(rows: list[Any]) -> Any:
        return collate([{"image": decode(row["png"]["bytes"]), **row["json"]} for row in rows])

    loader = torch.utils.data.DataLoader(rows, batch_size=batch, num_workers=workers, collate_fn=read, drop_last=True)
    return lambda: loader


class _MapStyle(torch.utils.data.Dataset):
    def __init__(self, data: Path, decode: Decode) -> None:
        from data_pipelines.shards.reader import ShardReader

        self._reader, self._decode = ShardReader(data), decode

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return _read(self._reader, self._decode, number)


def _read(reader: Any, decode: Decode, number: int) -> dict[str, Any]:
    _, fields = reader.read(number)
    return sample(decode, fields["png"], fields["json"])


def _raw_samples(data: Path) -> Iterable[dict[str, bytes]]:
    """Straight from the tars: an environment of a peer has nothing of ours."""
    import tarfile

    for path in sorted(data.glob("*.tar")):
        with tarfile.open(path) as tar:
            found: dict[str, dict[str, bytes]] = {}
            for member in tar:
                key, _, field = member.name.partition(".")
                content = tar.extractfile(member)
                assert content is not None
                found.setdefault(key, {})[field] = content.read()
            yield from found.values()
