"""Tars made elsewhere: indexed in place and read by everything, or refused by name; and sharded anew.

Run: pytest tests/data/test_index_foreign.py
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset
from build_sources import build, dropped, encoded, picture, run_unimodel, write_film
from recorded_data import contents, flip

from data_pipelines.shards.foreign import foreign_folders, index_folder, is_indexed
from data_pipelines.shards.reader import ShardReader
from data_pipelines.shards.verify import verify_dataset

MEGABYTE = 1 << 20


def write_tars(folder: Path, tars: int = 2, samples: int = 3) -> dict[str, bytes]:
    """Stock shards; their pictures by tar and key."""
    folder.mkdir(parents=True)
    pictures: dict[str, bytes] = {}
    for number in range(tars):
        with webdataset.TarWriter(str(folder / f"shard-{number}.tar")) as writer:
            for sample in range(samples):
                payload = encoded(picture(10 * number + sample))
                writer.write({"__key__": f"{sample:04d}", "png": payload, "txt": f"tar {number}, {sample}", "cls": 3})
                pictures[f"{number}/{sample:04d}"] = payload
    return pictures


def index(folder: Path, max_bytes: int = MEGABYTE) -> list[int]:
    reported: list[int] = []
    index_folder(folder, reported.append, 1, max_bytes)
    return reported


def test_stock_tars_are_read_where_they_are(tmp_path: Path) -> None:
    pictures = write_tars(tmp_path / "tars")
    before = {path: path.read_bytes() for path in (tmp_path / "tars").glob("*.tar")}
    status, output, errors = run_unimodel("data", "index", tmp_path / "tars", "--processes", 1)
    assert (status, errors) == (0, "") and "indexed" in output
    assert {path: path.read_bytes() for path in before} == before
    reader = ShardReader(tmp_path / "tars")
    found = [reader.read(number) for number in range(len(reader))]
    assert [fields["png"] for _, fields in found] == list(pictures.values())
    assert found[4] == ("0001", {"png": pictures["1/0001"], "txt": b"tar 1, 1", "cls": b"3"})
    assert reader.lengths(4, "size", "text") == [[40, 48], [8]]
    assert verify_dataset(tmp_path / "tars").ok
    assert run_unimodel("data", "index", tmp_path / "tars")[1].startswith("already indexed")


def test_only_what_changed_is_indexed_again(tmp_path: Path) -> None:
    folder = tmp_path / "tars"
    write_tars(folder, tars=3)
    assert index(folder) == [0, 1, 1, 1] and is_indexed(folder)
    first = contents(folder)
    path = folder / "shard-1.tar"
    path.write_bytes((folder / "shard-2.tar").read_bytes())
    later = (folder / "shard-1.tar.idx").stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))
    assert not is_indexed(folder)
    assert index(folder) == [2, 1]
    (folder / "shard-1.tar.idx").unlink()
    (folder / "shard-0.tar").unlink()
    (folder / "shard-0.tar.idx").unlink()
    assert index(folder) == [1, 1]
    assert [shard.file for shard in ShardReader(folder).shards] == ["shard-1.tar", "shard-2.tar"]
    assert verify_dataset(folder).ok and first.keys() - contents(folder).keys() == {"shard-0.tar", "shard-0.tar.idx"}


def test_damage_after_indexing_is_found(tmp_path: Path) -> None:
    write_tars(tmp_path / "tars")
    index(tmp_path / "tars")
    member = ShardReader(tmp_path / "tars").entry(1).members["png"]
    flip(tmp_path / "tars/shard-0.tar", member.offset + 7)
    (problem,) = verify_dataset(tmp_path / "tars").problems
    assert (problem.key, problem.field) == ("0001", "png")


def test_names_as_other_writers_make_them(tmp_path: Path) -> None:
    """GNU and pax headers, folders, capitals, long names, files that belong to no sample."""
    long = "sub/" + "k" * 120
    for name, form in (("gnu.tar", tarfile.GNU_FORMAT), ("pax.tar", tarfile.PAX_FORMAT)):
        with tarfile.open(tmp_path / name, "w", format=form) as tar:
            _folder(tar, "sub")
            for member in ("./a.JPG", "./a.TXT", f"{long}.png", f"{long}.seg.png", "sub/._x.png", "README"):
                _add(tar, member, b"content of " + member.encode())
    index(tmp_path)
    reader = ShardReader(tmp_path)
    assert [reader.key(number) for number in range(len(reader))] == ["./a", long] * 2
    for number in (1, 3):
        assert reader.read(number)[1] == {
            "png": f"content of {long}.png".encode(),
            "seg.png": f"content of {long}.seg.png".encode(),
        }
    assert reader.read(2)[1].keys() == {"jpg", "txt"}
    assert verify_dataset(tmp_path).ok


def _add(tar: tarfile.TarFile, name: str, payload: bytes, **changes: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(payload), 1.5  # pyright: ignore[reportAttributeAccessIssue] - pax keeps fractions
    if tar.format != tarfile.PAX_FORMAT:
        info.mtime = 1
    for attribute, value in changes.items():
        setattr(info, attribute, value)
    tar.addfile(info, io.BytesIO(payload))


def _folder(tar: tarfile.TarFile, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    tar.addfile(info)


BAD_MEMBERS: dict[str, tuple[Callable[[tarfile.TarFile], None], str]] = {
    "a link": (
        lambda tar: _add(tar, "b.txt", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "link to '/etc/passwd'",
    ),
    "a hard link": (lambda tar: _add(tar, "b.txt", b"", type=tarfile.LNKTYPE, linkname="a.txt"), "link to 'a.txt'"),
    "a device": (lambda tar: _add(tar, "b.txt", b"", type=tarfile.CHRTYPE), "not a plain file"),
    "an absolute name": (lambda tar: _add(tar, "/b.txt", b"x"), "leads out"),
    "a parent name": (lambda tar: _add(tar, "a/../../b.txt", b"x"), "leads out"),
    "a large member": (lambda tar: _add(tar, "b.txt", b"x" * 5000), "5000 bytes are more than the 4096"),
}


@pytest.mark.parametrize("what", BAD_MEMBERS)
def test_members_that_must_not_be_read_are_refused_by_name(tmp_path: Path, what: str) -> None:
    add, message = BAD_MEMBERS[what]
    tars = tmp_path / "tars"
    tars.mkdir()
    with tarfile.open(tars / "bad.tar", "w") as tar:
        _add(tar, "a.txt", b"good text")
        add(tar)
    with pytest.raises(ValueError, match=f"bad.tar, member '.*b.txt': .*{message}"):
        index(tars, 4096)
    assert sorted(contents(tars)) == ["bad.tar"]
    if what != "a large member":
        source = {"kind": "webdataset", "path": str(tars)}
        assert list(build(tmp_path / "data", source, max_unreadable_fraction=0.6)) == ["a"]
        ((name, (reason, _)),) = dropped(tmp_path / "data").items()
        assert name.startswith("bad.tar, member ") and reason == "unreadable"


def test_damaged_and_odd_tars_are_refused(tmp_path: Path) -> None:
    write_tars(tmp_path / "tars", tars=1)
    whole = (tmp_path / "tars/shard-0.tar").read_bytes()

    def refused(name: str, content: bytes, match: str) -> None:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "x.tar").write_bytes(content)
        with pytest.raises(ValueError, match=match):
            index(folder)

    refused("cut", whole[:3000], "x.tar is not a whole, uncompressed tar")
    refused("header", whole[:8] + b"?" + whole[9:], "x.tar")
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        third = tar.getmembers()[2].offset
    refused("middle", whole[: third + 5] + b"\xff" + whole[third + 6 :], f"damaged at byte {third}")
    refused("empty", bytes(10240), "holds no samples")
    twice = io.BytesIO()
    with tarfile.open(fileobj=twice, mode="w") as tar:
        for name in ("a.txt", "b.txt", "a.png"):
            _add(tar, name, b"x")
    refused("scattered", twice.getvalue(), "sample 'a': its files do not lie side by side")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/x.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="x.tar.gz is compressed"):
        foreign_folders(tmp_path / "packed")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no .tar file"):
        foreign_folders(tmp_path / "nothing")


def test_tars_are_sharded_anew_with_filters(tmp_path: Path) -> None:
    pictures = write_tars(tmp_path / "tars")
    source = {"kind": "webdataset", "path": str(tmp_path / "tars"), "prefix_keys": True}
    found = build(tmp_path / "data", source, shards={"max_samples": 4})
    assert list(found) == [f"shard-{number}-{sample:04d}" for number in range(2) for sample in range(3)]
    assert [fields["png"] for fields, _ in found.values()] == list(pictures.values())
    assert json.loads(found["shard-1-0000"][0]["json"])["file"] == "shard-1.tar"
    build(tmp_path / "without", source | {"prefix_keys": False})
    assert dropped(tmp_path / "without")["shard-1.tar, sample 0000"][0] == "same key"


def test_a_build_of_films_sharded_anew_keeps_everything(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    write_film(tmp_path / "films/one.mkv", frames=30)
    films = {"kind": "video", "path": str(tmp_path / "films"), "piece_seconds": 1.0, "size": [16, 16]}
    first = build(tmp_path / "data", films)
    again = build(tmp_path / "again", {"kind": "webdataset", "path": str(tmp_path / "data/train")})
    assert again == first
