"""A sample that cannot be used is named and left out; nothing else moves."""

from __future__ import annotations

from dataclasses import dataclass

from data_pipelines.shards.reader import ShardReader


@dataclass(frozen=True, slots=True)
class BadSample:
    """A sample that was left out, and why. Its place stays empty."""

    shard: str
    key: str
    offset: int
    """Byte of the shard at which the sample begins; -1 when not known."""
    reason: str


def name_bad_sample(reader: ShardReader, number: int, error: ValueError) -> BadSample:
    """Where sample `number` lies, of which `error` tells what is wrong."""
    entry = reader.entry(number)
    offset = min((member.offset for member in entry.members.values()), default=-1)
    return BadSample(str(reader.place(number)[0]), entry.key, offset, str(error))
