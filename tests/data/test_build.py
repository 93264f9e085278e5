"""What every build keeps: the same bytes whatever happens on the way, splits that stay, nothing done twice.

Run: pytest tests/data/test_build.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from build_sources import (
    ROOT,
    build,
    build_killed_at,
    dropped,
    kill_when,
    run_unimodel,
    samples,
    settings,
    start_unimodel,
    write_build_file,
    write_stories,
)
from recorded_data import contents

from data_pipelines.build.build import build_dataset
from data_pipelines.build.selection import split_of
from data_pipelines.build.settings import BuildSettings, SplitSettings
from data_pipelines.shards.index import read_manifest
from data_pipelines.shards.verify import verify_dataset
from unimodel.config_file import load_settings

SMALL = {"splits": {"validation": 0.2, "test": 0.2}, "shards": {"max_samples": 9}}


def stories(path: Path, rows: int = 60) -> dict[str, Any]:
    write_stories(path, rows)
    return {"kind": "tables", "path": str(path), "columns": {"text": "text", "id": "id"}, "rows_per_block": 8}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished build of 60 rows in 8 blocks, and its source. Read-only."""
    folder = tmp_path_factory.mktemp("built")
    source = stories(folder / "stories.jsonl")
    build(folder / "data", source, **SMALL)
    return folder / "data", source


def test_the_folder_is_whole_verified_and_holds_nothing_else(built: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = built
    report = verify_dataset(folder)
    assert report.ok and report.num_samples == 60 and set(report.splits) == {"train", "validation", "test"}
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "dropped.jsonl",
        "test",
        "train",
        "validation",
    ]
    assert all(max(s.num_samples for s in read_manifest(folder / split).shards) <= 9 for split in report.splits)


@pytest.mark.parametrize(
    ("processes", "marks"),
    [(1, (".build/parts/part-000002.json", "train/train-000001.tar")), (2, (".build/parts/part-000003.json",))],
)
def test_the_command_killed_on_the_way_ends_with_the_same_bytes(
    built: tuple[Path, dict[str, Any]], tmp_path: Path, processes: int, marks: tuple[str, ...]
) -> None:
    folder, source = built
    file, data = tmp_path / "build.yaml", tmp_path / "data"
    write_build_file(file, data, source, **SMALL)
    command = ("data", "build", file, "--processes", processes)
    for mark in marks:
        kill_when(start_unimodel(*command), data / mark)
    status, output, errors = run_unimodel(*command)
    assert (status, errors) == (0, "") and "built" in output
    assert contents(data) == contents(folder)
    if processes == 1:
        status, output, _ = run_unimodel(*command)
        assert status == 0 and output.startswith("already built")


def test_finished_parts_and_shards_are_kept(
    built: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_pipelines.build import build as module

    folder, source = built
    wanted = settings(tmp_path / "data", source, **SMALL)
    real, made = module.copy_shard, []

    def interrupted(task: Any) -> int:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(task.path.name)
        return real(task)

    monkeypatch.setattr(module, "copy_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_dataset(wanted, processes=1)
    monkeypatch.setattr(module, "copy_shard", lambda task: made.append(task.path.name) or real(task))
    monkeypatch.setattr(module, "make_part", lambda task: pytest.fail("every part was finished"))
    assert build_dataset(wanted, processes=1)
    assert len(made) == len(set(made)), "a finished shard was made again"
    assert contents(tmp_path / "data") == contents(folder)


def test_a_lost_shard_of_a_finished_build_is_made_again(built: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, source = built
    wanted = settings(tmp_path / "data", source, **SMALL)
    build_dataset(wanted, processes=1)
    assert not build_dataset(wanted, processes=1)
    (tmp_path / "data/train/train-000001.tar").unlink()
    assert build_dataset(wanted, processes=1)
    assert contents(tmp_path / "data") == contents(folder)


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    source = stories(tmp_path / "stories.jsonl", 10)
    build(tmp_path / "data", source)
    with pytest.raises(ValueError, match=r"filters.min_characters \(there None, wanted 5\).*delete the folder"):
        build_dataset(settings(tmp_path / "data", source, filters={"min_characters": 5}))


def test_a_source_that_changed_under_an_unfinished_build_is_refused(tmp_path: Path) -> None:
    source = stories(tmp_path / "stories.jsonl", 30)
    wanted = settings(tmp_path / "data", source)
    assert build_killed_at(6, wanted)
    stories(tmp_path / "stories.jsonl", 31)
    with pytest.raises(ValueError, match="the source is not what it was"):
        build_dataset(wanted)


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    source = stories(tmp_path / "stories.jsonl", 5)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        build_dataset(settings(tmp_path / "data", source))
    assert contents(tmp_path / "data") == {"thesis.txt": b"mine"}


def test_a_folder_inside_its_source_is_refused(tmp_path: Path) -> None:
    stories(tmp_path / "stories.jsonl", 5)
    source = {"kind": "tables", "path": str(tmp_path), "columns": {"text": "text"}}
    with pytest.raises(ValueError, match="lies in the source"):
        build_dataset(settings(tmp_path / "data", source))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("file", sorted((ROOT / "configs/data").glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_valid(file: Path) -> None:
    assert load_settings(file, None, BuildSettings, "build file").source.kind == file.stem


def test_a_second_build_at_the_same_time_is_refused(tmp_path: Path) -> None:
    import fcntl

    source = stories(tmp_path / "stories.jsonl", 5)
    (tmp_path / "data/.build").mkdir(parents=True)
    with (tmp_path / "data/.build/lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another build is writing"):
            build_dataset(settings(tmp_path / "data", source))


def test_a_sample_keeps_its_split_when_others_are_added(tmp_path: Path) -> None:
    def split_by_key(rows: int) -> dict[str, str]:
        folder = tmp_path / str(rows)
        build(folder, stories(tmp_path / f"{rows}.jsonl", rows), **SMALL)
        return {key: split.name for split in folder.iterdir() if split.is_dir() for key in _keys(split)}

    few, many = split_by_key(50), split_by_key(90)
    assert set(few.values()) == {"train", "validation", "test"}
    assert {key: many[key] for key in few} == few


def _keys(split: Path) -> list[str]:
    from data_pipelines.shards.reader import ShardReader

    reader = ShardReader(split)
    return [reader.key(number) for number in range(len(reader))]


def test_splits_have_their_shares() -> None:
    splits = SplitSettings(validation=0.2, test=0.1)
    found = [split_of(f"sample-{number}", splits) for number in range(4000)]
    # 4 standard deviations of a binomial with 4000 draws
    assert abs(found.count("validation") / 4000 - 0.2) < 0.026 and abs(found.count("test") / 4000 - 0.1) < 0.019


def test_too_much_that_cannot_be_read_stops_the_build_and_a_raised_limit_continues_it(tmp_path: Path) -> None:
    path = tmp_path / "stories.jsonl"
    source = stories(path, 40)
    path.write_bytes(path.read_bytes() + b"no json\n" * 3 + b'{"text": "\xff", "id": 1}\n')
    with pytest.raises(ValueError, match=r"of 44 items cannot be read(.|\n)*row 40: not valid JSON"):
        build(tmp_path / "data", source, max_unreadable_fraction=0.05)
    found = build(tmp_path / "data", source, max_unreadable_fraction=0.1)
    assert len(found) == 40
    assert dropped(tmp_path / "data")["stories.jsonl, row 43"] == ("unreadable", "the line is not UTF-8 (byte 10)")


def test_nothing_left_is_an_error_with_reasons(tmp_path: Path) -> None:
    source = stories(tmp_path / "stories.jsonl", 3)
    with pytest.raises(ValueError, match="nothing is left of 3 items: .*row 0: characters, 31 is not within"):
        build(tmp_path / "data", source, filters={"min_characters": 1000})


def test_mistakes_in_a_build_file_are_named(tmp_path: Path) -> None:
    source = stories(tmp_path / "stories.jsonl", 3)
    write_build_file(tmp_path / "b.yaml", tmp_path / "data", source | {"rows_per_blok": 4})
    status, _, errors = run_unimodel("data", "build", tmp_path / "b.yaml", "--set", "splits.test=2.0")
    assert status == 2 and "Traceback" not in errors
    assert "source.rows_per_blok: unknown key; did you mean 'rows_per_block'?" in errors
    assert "splits.test: Input should be less than or equal to 1" in errors


def test_the_card_counts_and_names_what_datasets_needs(built: tuple[Path, dict[str, Any]]) -> None:
    import yaml

    folder, _ = built
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert "Fields of every sample: json, txt." in card
    assert front["license"] == "cc0-1.0" and front["size_categories"] == ["n<1K"]
    counts = {split: read_manifest(folder / split).num_samples for split in ("train", "validation", "test")}
    assert all(f"| {split} | {count} |" in card for split, count in counts.items())
    assert {entry["split"]: entry["path"] for entry in front["configs"][0]["data_files"]} == {
        split: f"{split}/*.tar" for split in counts
    }


def test_stock_readers_read_the_result(built: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    import datasets
    import webdataset

    folder, _ = built
    expected = {key: fields["txt"].decode() for key, (fields, _) in samples(folder).items()}
    stock = [webdataset.WebDataset(str(tar), shardshuffle=False) for tar in sorted(folder.glob("*/*.tar"))]
    assert {sample["__key__"]: sample["txt"].decode() for tars in stock for sample in tars} == expected
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))
    assert {row["__key__"]: row["txt"] for split in loaded.values() for row in split} == expected
    assert json.loads(json.dumps(loaded["train"][0]["json"]))["license"] == "cc0-1.0"
