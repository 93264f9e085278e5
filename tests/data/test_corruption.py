"""Ten thousand random corruptions of recorded and tokenised shards: told or left out, never a crash, never a wrong
sample, never another order of the good ones.

Run: pytest tests/data/test_corruption.py -m ""
"""

from __future__ import annotations

import json
import random
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from corruption import damaged, damaged_files, files_of
from toy_sequences import BUILDER, PAD_ID, toy_episode

from data_pipelines.shards.index import Manifest, write_manifest
from data_pipelines.shards.npy import decode_npy
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.verify import verify_dataset
from data_pipelines.shards.writer import write_shard
from data_pipelines.sources.episode import decode_episode
from data_pipelines.stream.loader import BadSample
from data_pipelines.stream.plan import StreamState
from unimodel.batch import CorruptedSequence, pack
from unimodel.config import EPISODES, StageConfig
from unimodel.tokenizers.tokenised_shards import decode_tokenised, encode_tokenised, tokenised_lengths
from unimodel.training.data import StageData

STEPS = 3
STAGE = StageConfig.model_validate_json(
    json.dumps(
        {
            "number": 1,
            "steps": 50,
            "batch": {"rows": 14, "row_tokens": 40},
            "mixture": [
                {"sequence": "interaction", "objective": "frames", "frames": 3, "share": 2.0},
                {"sequence": "image_to_text", "objective": "caption"},
            ],
            "objectives": {"frames": {"kind": "diffusion_forcing"}, "caption": {"kind": "next_token"}},
        }
    )
)
Sample = tuple[str, dict[str, bytes]]


def stage_data(folder: Path) -> StageData:
    return StageData({EPISODES: folder}, BUILDER, "stage", STAGE, seed=3)


def write_tokens(folder: Path, samples: list[Sample], lengths: list[dict[str, int | list[int]]]) -> None:
    rows = [(key, fields, length) for (key, fields), length in zip(samples, lengths, strict=True)]
    shards = [write_shard(folder / f"tokens-{i:06d}.tar", rows[4 * i : 4 * i + 4]) for i in range(len(rows) // 4)]
    write_manifest(folder, Manifest(tuple(shards), {"kind": "tokenised episodes"}))


@dataclass(frozen=True)
class Tokens:
    """A tokenised data set, and what an undamaged stream makes of it."""

    folder: Path
    samples: list[Sample]
    lengths: list[dict[str, int | list[int]]]

    def plan(self) -> list[list[tuple[int, CorruptedSequence]]]:
        """The samples of every row of the first steps, with what is built of them."""
        data = stage_data(self.folder)
        made = data.stream(StreamState(), PAD_ID)
        rows = made._plan.take(STEPS * STAGE.batch.rows)
        built = [[(placed.draw.sample, data.build(placed)) for placed in row] for row in rows]
        assert {sample for row in built for sample, _ in row} == set(range(len(self.samples))), "all are drawn"
        return built  # pyright: ignore[reportReturnType]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    folder = tmp_path_factory.mktemp("tokens")
    episodes = [toy_episode(seed, steps=2 + seed % 3, side=2, key=f"episode-{seed}") for seed in range(12)]
    samples = [(episode.key, encode_tokenised(episode)) for episode in episodes]
    lengths = [dict(tokenised_lengths(episode)) for episode in episodes]
    write_tokens(folder, samples, lengths)  # pyright: ignore[reportArgumentType]
    return Tokens(folder, samples, lengths)  # pyright: ignore[reportArgumentType]


def corrupt_recorded(folder: Path, seeds: range) -> None:
    """`folder` is a copy."""
    split, files = folder / "train", files_of(folder / "train")
    whole = [ShardReader(split).read(number) for number in range(10)]
    for seed in seeds:
        with damaged_files(files, random.Random(seed)) as changed:
            require_told(split, changed, seed)
            readable(split, whole, seed)


def corrupt_tokens(tokens: Tokens, seeds: range) -> tuple[int, int]:
    """Returns how many runs were stopped by an error and how many went on without the bad samples."""
    files, plan = files_of(tokens.folder), tokens.plan()
    stopped = went_on = 0
    for seed in seeds:
        with damaged_files(files, random.Random(seed)) as changed:
            require_told(tokens.folder, changed, seed)
            good = readable(tokens.folder, tokens.samples, seed)
            try:
                require_same_order(tokens.folder, plan, good)
                went_on += 1
            except (ValueError, OSError) as error:
                assert str(tokens.folder) in str(error), (seed, "it names the file")
                assert len(good) < len(tokens.samples), (seed, error)
                stopped += 1
    return stopped, went_on


def require_told(folder: Path, changed: list[Path], seed: int) -> None:
    """`data verify` names a file for every changed byte, and the right one."""
    try:
        told = [str(problem) for problem in verify_dataset(folder).problems]
    except (ValueError, OSError) as error:
        told = [str(error)]
    assert bool(told) == bool(changed), (seed, changed, told)
    named = " ".join(told)
    index_only = all(path.name == "index.json" for path in changed)
    assert any(path.name in named for path in changed) or index_only or not changed, (seed, changed, told)
    assert str(folder) in named or not changed, (seed, told)


def readable(folder: Path, whole: list[Sample], seed: int) -> set[int]:
    """The samples that can be read: right, to the byte. All others raise ValueError or OSError."""
    try:
        reader = ShardReader(folder)
    except (ValueError, OSError):
        return set()
    assert len(reader) == len(whole), seed
    good = set()
    for number, sample in enumerate(whole):
        try:
            read = reader.read(number)
        except (ValueError, OSError):
            continue
        assert read == sample, (seed, number)
        good.add(number)
    return good


def require_same_order(folder: Path, plan: list[list[tuple[int, CorruptedSequence]]], good: set[int]) -> None:
    """The batches are those of the undamaged stream, without the samples that cannot be read."""
    stream = stage_data(folder).stream(StreamState(), PAD_ID)
    rows = STAGE.batch.rows
    for number in range(STEPS):
        step, part = next(stream), plan[number * rows : (number + 1) * rows]
        kept = [[built for sample, built in row if sample in good] for row in part]
        expected = pack(kept, STAGE.batch.row_tokens, PAD_ID)
        for name in expected.__slots__:
            assert torch.equal(getattr(step.batch, name), getattr(expected, name)), (number, name)
        assert len(step.bad_samples) == sum(sample not in good for row in part for sample, _ in row)
        assert all(bad.reason and Path(bad.shard).parent == folder for bad in step.bad_samples)


def test_corrupted_recordings_are_told(copied: Path) -> None:
    corrupt_recorded(copied, range(120))


def test_corrupted_tokens_are_told_and_left_out_in_place(tokens: Tokens) -> None:
    stopped, went_on = corrupt_tokens(tokens, range(150))
    assert stopped > 20 and went_on > 50, "both are seen"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_ten_thousand_corruptions(part: int, copied: Path, tokens: Tokens) -> None:
    corrupt_recorded(copied, range(1000 * part, 1000 * (part + 1)))
    stopped, went_on = corrupt_tokens(tokens, range(10_000 + 1000 * part, 10_000 + 1000 * (part + 1)))
    print(f"part {part}: 1000 recorded; 1000 tokenised: {went_on} streams went on, {stopped} were stopped")


# --- damage that the checksums vouch for: a writer's mistake or a forger's work --------------------------------------


def fuzz_decoders(recorded: Path, tokens: Tokens, seeds: range) -> None:
    reader = ShardReader(recorded / "train")
    for seed in seeds:
        chooser = random.Random(seed)
        for decode, samples in (
            (decode_episode, [reader.read(chooser.randrange(10))]),
            (decode_tokenised, tokens.samples),
        ):
            key, fields = chooser.choice(samples)
            name = chooser.choice(list(fields))
            try:
                decode(key, fields | {name: damaged(fields[name], chooser)})
            except ValueError as error:
                assert key in str(error), seed
        arrays = [payload for _, fields in tokens.samples for name, payload in fields.items()]
        payload = bytearray(chooser.choice(arrays))
        for _ in range(chooser.randrange(1, 4)):
            payload[chooser.randrange(min(128, len(payload)))] = chooser.choice(b"0123456789()[]{}<>|'\",:-iufbOUV\\\0")
        try:
            array = decode_npy(bytes(payload))
            assert array.nbytes <= len(payload), seed
        except ValueError:
            pass


def test_decoders_raise_nothing_but_value_errors_and_take_no_memory(recorded: Path, tokens: Tokens) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fuzz_decoders(recorded, tokens, range(1500))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "kB; the largest strip takes 200 MB"


@pytest.mark.slow
def test_decoders_at_length(recorded: Path, tokens: Tokens) -> None:
    fuzz_decoders(recorded, tokens, range(10_000, 40_000))


@pytest.mark.parametrize("seed", range(40))
def test_damage_with_right_checksums_is_left_out_or_harmless(tokens: Tokens, tmp_path: Path, seed: int) -> None:
    """Three damaged fields in a shard written anew: the stream goes on in its order, ids stay in the vocabulary."""
    chooser = random.Random(seed)
    samples = [(key, dict(fields)) for key, fields in tokens.samples]
    bad = chooser.sample(range(len(samples)), 3)
    for number in bad:
        fields = samples[number][1]
        name = chooser.choice(list(fields))
        fields[name] = damaged(fields[name], chooser)
    write_tokens(tmp_path, samples, tokens.lengths)
    data, plan = stage_data(tmp_path), tokens.plan()
    rows = data.stream(StreamState(), PAD_ID)._plan.take(len(plan))
    for row, before in zip(rows, plan, strict=True):
        for placed, (sample, built) in zip(row, before, strict=True):
            assert placed.draw.sample == sample
            now = data.build(placed)
            if isinstance(now, BadSample):
                assert sample in bad and now.key == samples[sample][0]
                continue
            assert len(now) == placed.length and 0 <= now.input_ids.min()
            assert now.input_ids.max() < BUILDER.vocabulary.size
            if sample not in bad:
                assert all(np.array_equal(getattr(now, f), getattr(built, f)) for f in built.__slots__)


@pytest.mark.parametrize(
    ("field", "payload"),
    [
        ("json", b'{"mission":"\xff","captions":[]}'),
        ("json", b"[" * 100_000),
        ("json", b'{"mission":"\\ud800","captions":[],"environment":"","seed":1,"num_actions":1,"num_frames":1}'),
        ("json", b'{"mission":"","captions":[3],"environment":"","seed":1,"num_actions":1,"num_frames":1}'),
        ("frames.png", b"\x89"),
        ("frames.png", b""),
        ("actions.npy", b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118),
        (
            "actions.npy",
            b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr':'<i8','fortran_order':False,'shape':(0,2**70)}".ljust(118),
        ),
        ("actions.npy", b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr':'<i8','fortran_order':False,'shape':(0,%d)}" % 2**70),
    ],
)
def test_hostile_fields_are_named(recorded: Path, field: str, payload: bytes) -> None:
    key, fields = ShardReader(recorded / "train").read(0)
    with pytest.raises(ValueError, match=f"sample {key}: field {field}"):
        decode_episode(key, fields | {field: payload})


def test_a_shard_that_shrank_while_it_was_read(tokens: Tokens, tmp_path: Path) -> None:
    """Its table is open, its descriptor too: what is gone is left out, what is there is still right."""
    folder = shutil.copytree(tokens.folder, tmp_path / "tokens")
    stream, plan, rows = stage_data(folder).stream(StreamState(), PAD_ID), tokens.plan(), STAGE.batch.rows
    assert not next(stream).bad_samples
    shard = folder / "tokens-000001.tar"
    with shard.open("r+b") as file:
        file.truncate(ShardReader(folder).entry(6).members["tokens.npy"].offset + 10)
    good = readable(folder, tokens.samples, 0)
    assert set(range(len(tokens.samples))) - good <= {4, 5, 6, 7} and len(good) < len(tokens.samples)
    for number in range(1, STEPS):
        step, part = next(stream), plan[number * rows : (number + 1) * rows]
        expected = pack([[b for s, b in row if s in good] for row in part], STAGE.batch.row_tokens, PAD_ID)
        assert torch.equal(step.batch.input_ids, expected.input_ids)
