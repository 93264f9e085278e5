"""One run on everything: recorded grid worlds, Atari with sound, pictures with captions, sounds, films and texts.

Run: pytest tests/flow/test_sources.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
import yaml
from build_sources import build, encoded, tone, write_film, write_sound
from PIL import Image
from skimage import data as photographs
from tiny_run import TinyRun, command, train_here, world_config

from data_pipelines.shards.foreign import index_folder
from data_pipelines.shards.reader import ShardReader
from data_pipelines.stream.plan import StreamState
from unimodel.config import MixtureEntry
from unimodel.config_file import load_config
from unimodel.evaluation.evaluate import evaluate
from unimodel.run_folder import read_json, read_json_lines
from unimodel.tokenizers.prepare import load_run_bundle
from unimodel.tokenizers.tokenised_shards import decode_tokenised
from unimodel.training.data import StageData

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


def index_pictures(folder: Path) -> None:
    """Pieces of scikit-image's photographs, each with its name, in a tar made elsewhere; one of them is broken."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with webdataset.TarWriter(str(folder / "photographs.tar")) as tar:
        for name in PHOTOGRAPHS:
            photograph = getattr(photographs, name)()
            for number in range(4):
                top, left = rng.integers(0, photograph.shape[0] - 200), rng.integers(0, photograph.shape[1] - 200)
                piece = Image.fromarray(photograph[top : top + 180, left : left + 200])
                tar.write({"__key__": f"{name}-{number}", "jpg": encoded(piece, "JPEG"), "txt": f"a piece of {name}"})
        tar.write({"__key__": "broken", "jpg": b"x", "txt": "one byte"})
    index_folder(folder, lambda count: None, 1, 1 << 20)


def build_sounds(folder: Path) -> None:
    files = folder / "files"
    files.mkdir(parents=True)
    for number in range(4):
        write_sound(files / f"{number}.wav", tone(1.0, 8000, hertz=200 + 50 * number), 8000, "pcm_s16le")
        (files / f"{number}.txt").write_text(f"tone number {number}")
    source = {"kind": "audio", "path": str(files), "piece_seconds": 0.5, "sound": {"rate": 8000}}
    build(folder / "shards", source, duplicates={"exact": False})


def build_films(folder: Path) -> None:
    files = folder / "files"
    files.mkdir(parents=True)
    write_film(files / "heard.mkv", frames=16)
    write_film(files / "silent.mkv", frames=16, sound_rate=None)
    source = {"kind": "video", "path": str(files), "piece_seconds": 0.4, "frames_per_second": 10.0}
    build(folder / "shards", source | {"size": [64, 64], "sound": {"rate": 8000}}, duplicates={"exact": False})


def build_texts(folder: Path) -> None:
    folder.mkdir()
    rows = [" ".join(f"word{(i * j) % 17}" for j in range(20 * (i + 1))) for i in range(6)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    build(folder / "shards", {"kind": "tables", "path": str(folder / "texts.jsonl"), "columns": {"text": "text"}})


MIXTURE = (
    ("episodes", "interaction", "dynamics"),
    ("pong", "interaction", "dynamics"),
    ("pong", "interaction", "actions"),
    ("films", "interaction", "dynamics"),
    ("pong", "clip", "masked"),
    ("films", "clip", "masked"),
    ("pictures", "text_to_image", "masked"),
    ("pictures", "image_to_text", "words"),
    ("sounds", "text_to_audio", "masked"),
    ("sounds", "audio_to_text", "words"),
    ("texts", "text", "words"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Recorded, tokenised and trained, through the command line."""
    folder = tmp_path_factory.mktemp("sources")
    values = world_config(folder)
    pong = {"environment": "ALE/Pong-v5", "train_episodes": 8, "validation_episodes": 2, "test_episodes": 2}
    pong |= {"max_steps": 6, "policies": [{"kind": "sticky"}], "episodes_per_shard": 4}
    index_pictures(folder / "pictures")
    for name, make in {"sounds": build_sounds, "films": build_films, "texts": build_texts}.items():
        make(folder / name)
    values["data"]["sources"] = {
        "pong": {"folder": str(folder / "pong"), "recording": pong},
        "pictures": {"folder": str(folder / "pictures")},
        **{name: {"folder": str(folder / name / "shards")} for name in ("sounds", "films", "texts")},
    }
    values["evaluation"] = {"episodes": 2, "branch_states": 2, "sampling_steps": 2, "horizons": [1, 2]}
    values["tokenizers"]["audio"] = {"sample_rate": 8000, "hop_samples": 160, "width": 16, "steps": 5}
    objectives: dict[str, Any] = {
        "dynamics": {"kind": "diffusion_forcing"},
        "actions": {"kind": "inverse_dynamics", "ask_changed_places": True},
        "masked": {"kind": "masked", "attention": "span"},
        "words": {"kind": "next_token"},
    }
    mixture = [{"source": s, "sequence": q, "objective": o, "frames": 3, "text_tokens": 40} for s, q, o in MIXTURE]
    values["stages"] = {
        "all": {
            "number": 1,
            "steps": 16,
            "batch": {"rows": 16, "row_tokens": 512},
            "mixture": mixture,
            "objectives": objectives,
            "optimizer": {"learning_rate": 3e-3},
        }
    }
    config_file = folder / "config.yaml"
    config_file.write_text(yaml.safe_dump(values, sort_keys=False))
    for arguments in (("data", "record"), ("tokenizer", "train"), ("data", "tokenize")):
        result = command(*arguments, str(config_file))
        assert result.returncode == 0, result.stderr
    tiny = TinyRun(config_file, load_config(config_file))
    train_here(tiny.config)
    return tiny


def test_every_source_gets_its_share_of_the_tokens(run: TinyRun) -> None:
    metrics = run.metrics()
    assert len(metrics) == 16 and all(np.isfinite(line["loss"]) for line in metrics)
    got = {name: sum(line[f"tokens/{name}"] for line in metrics) for name in {f"{s}/{q}" for s, q, _ in MIXTURE}}
    total = sum(got.values())
    for name, tokens in got.items():
        entries = sum(f"{s}/{q}" == name for s, q, _ in MIXTURE)
        # A window of 256 rows of 512 tokens, and an entry may be ahead or behind by its longest sample, about 300.
        assert tokens / total == pytest.approx(entries / len(MIXTURE), abs=0.006), name


def test_sound_was_heard_and_what_cannot_be_read_was_left_out(run: TinyRun) -> None:
    bundle = load_run_bundle(run.run)
    assert bundle.audio is not None and bundle.vocabulary.audio_size == bundle.audio.num_codes
    reader = ShardReader(run.run.tokens_of("pong", "train"))
    episodes = [decode_tokenised(*reader.read(i)) for i in range(len(reader))]
    # 4 of 60 frames a second are 3.3 hops of 20 ms, with two codes each
    assert all(e.audio.shape == (e.num_frames, 6) and e.frames.shape[1:] == (8, 8) for e in episodes)
    assert len(ShardReader(run.run.tokens_of("pictures", "train"))) == 16
    (left_out,) = read_json_lines(run.run.tokens_of("pictures", "train") / "quarantine.jsonl")
    assert left_out["key"] == "broken" and "not a readable picture" in left_out["reason"]
    assert any(line.get("nats/audio") for line in run.metrics())


def test_the_run_can_be_used(run: TinyRun, tmp_path: Path) -> None:
    """Evaluated on its recorded world, exported with its audio tokenizer."""
    evaluate(run.run.path, "test")
    assert "next frame PSNR, 1 step" in {row["metric"] for row in read_json(run.run.summary)}
    out = tmp_path / "export"
    assert command("export", str(run.run.path), "--out", str(out)).returncode == 0
    assert (out / "audio_tokenizer.safetensors").exists()
    assert "already tokenised" in command("data", "tokenize", str(run.config_file)).stdout


def test_a_source_that_does_not_exist_is_named(run: TinyRun) -> None:
    result = command(
        "train",
        str(run.config_file),
        "--set",
        'stages.all.mixture=[{"source":"pung","sequence":"clip","objective":"masked"}]',
    )
    assert result.returncode == 2 and "'pung' is not one of data.sources; known: episodes, pong" in result.stderr


def test_a_source_without_sound_cannot_be_heard(run: TinyRun) -> None:
    stage = run.config.stages["all"]
    entry = MixtureEntry(source="pictures", sequence="audio_to_text", objective="words")
    stage = stage.model_copy(update={"mixture": (entry,)})
    tokens = {"pictures": run.run.tokens_of("pictures", "train")}
    bundle = load_run_bundle(run.run)
    stream = StageData(tokens, bundle.builder, "all", stage, 0).stream(StreamState(), bundle.pad_id)
    with pytest.raises(ValueError, match="of source 'pictures': it has no sound, which audio_to_text needs"):
        next(stream)
