"""A folder of sound files, cut into pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_pipelines.sources.files import caption_beside, file_blocks, list_files, open_inside
from data_pipelines.sources.item import UNREADABLE, Block, Dropped, EncodedSample, encode_about, safe_key
from data_pipelines.sources.media import AUDIO_SUFFIXES, pyav
from data_pipelines.sources.settings import AudioSource
from data_pipelines.sources.sound import encode_flac, sound_pieces

BLOCK_FILES = 64
BLOCK_BYTES = 1 << 27


def list_audio(source: AudioSource) -> list[Block]:
    """Blocks of sound files. Raises MissingExtraError when PyAV is not installed."""
    pyav()
    files = list_files(source.path, AUDIO_SUFFIXES)
    return file_blocks(source.path, files, max_files=BLOCK_FILES, max_bytes=BLOCK_BYTES)


def read_audio(source: AudioSource, provenance: dict[str, Any], block: Block) -> Iterator[EncodedSample | Dropped]:
    """The pieces of every file; where a file breaks off, its whole pieces and what is wrong."""
    for name in block.place["files"]:
        yield from _file_pieces(source, provenance, name)


def _file_pieces(source: AudioSource, provenance: dict[str, Any], name: str) -> Iterator[EncodedSample | Dropped]:
    group, rate = safe_key(name.rpartition(".")[0]), source.sound.rate
    where = name
    try:
        caption = caption_beside(source.path, name)
        with open_inside(source.path, name) as file:
            for number, (start, sound) in enumerate(sound_pieces(file, source.sound, source.piece_seconds)):
                about = {"file": name, "start_second": start / rate, "sound_rate": rate, "seconds": len(sound) / rate}
                fields = {"flac": encode_flac(sound, rate)}
                lengths = {"sound": len(sound)}
                if caption:
                    fields["txt"], lengths["text"] = caption, len(caption)
                fields["json"] = encode_about(provenance | about)
                key = group if source.piece_seconds is None else f"{group}-{number:05d}"
                yield EncodedSample(key, f"{name} from second {start / rate:g}", fields, lengths, group)
                where = f"{name} from second {(start + len(sound)) / rate:g}"
    except ValueError as error:
        yield Dropped(where, UNREADABLE, str(error))
