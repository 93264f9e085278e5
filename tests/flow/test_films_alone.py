"""Films alone, as a user has them: built, inferred, trained, judged, stepped and played.

Run: pytest tests/flow/test_films_alone.py
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from moving_square import SIZE, walk, write_walk
from tiny_run import SHARED_BY_STAGES, TinyRun, command, train_here, world_config
from typer.testing import CliRunner, Result

from data_pipelines.shards.reader import ShardReader
from unimodel.cli import app
from unimodel.config_file import load_config
from unimodel.run_folder import read_json
from unimodel.tokenizers.prepare import load_run_bundle
from unimodel.tokenizers.tokenised_shards import decode_tokenised
from unimodel.training.loaded_run import load_run
from unimodel.world.play.played_world import PlayedWorld
from unimodel.world.play.playground import open_playground
from unimodel.world.play.settings import PlaySettings

FILMS, STEPS, RATE = 40, 12, 10
STAGE: dict[str, Any] = {
    "number": 3,
    "steps": 6,
    "mixture": [{"sequence": "interaction", "objective": "frames", "frames": 4, "sink": True}],
    "objectives": {"frames": {"kind": "diffusion_forcing"}},
}


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def film_run(folder: Path, films: Path, latent: dict[str, Any] | None) -> TinyRun:
    """A config whose only data are films."""
    values = world_config(folder)
    values["data"] = {"folder": str(films), "recording": {"image_size": SIZE}}
    values["tokenizers"]["latent_action"] = latent
    values["stages"] = {"interactive": SHARED_BY_STAGES | STAGE}
    values["evaluation"] = {"episodes": 3, "sampling_steps": 2, "horizons": [1, 4]}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    return TinyRun(file, load_config(file))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of mp4s, through `unimodel data build`."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "files").mkdir()
    for number in range(FILMS):
        write_walk(folder / "files" / f"{number:02d}.mp4", walk(np.random.default_rng(number), STEPS)[0], RATE)
    source = {"kind": "video", "path": str(folder / "files"), "frames_per_second": RATE, "size": [SIZE, SIZE]}
    build = {"folder": str(folder / "shards"), "origin": "a test", "license": "cc0-1.0", "source": source}
    (folder / "build.yaml").write_text(yaml.safe_dump(build | {"splits": {"validation": 0.1, "test": 0.2}}))
    built = invoke("data", "build", folder / "build.yaml")
    assert built.exit_code == 0, built.output
    return folder / "shards"


@pytest.fixture(scope="module")
def run(films: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Trained on them with inferred actions."""
    run = film_run(tmp_path_factory.mktemp("inferred"), films, {"steps": 300, "width": 24})
    for what in (("tokenizer", "train"), ("data", "tokenize")):
        done = invoke(*what, run.config_file)
        assert done.exit_code == 0, done.output
    train_here(run.config)
    return run


def test_the_codes_are_the_actions_of_the_films(run: TinyRun) -> None:
    bundle = load_run_bundle(run.run)
    assert bundle.vocabulary.action_size == 8 and not bundle.knows_real_actions
    reader = ShardReader(run.run.tokens_of("episodes", "train"))
    codes = np.concatenate([decode_tokenised(*reader.read(number)).actions for number in range(len(reader))])
    assert len(codes) == len(reader) * STEPS
    assert set(codes.tolist()) <= set(range(8)) and np.bincount(codes).max() < 0.6 * len(codes)


def test_training_goes_on_where_it_stopped_and_tokenizers_stay(run: TinyRun, tmp_path: Path) -> None:
    """The same metrics from a run that ends after three steps and is started again."""
    again = TinyRun(tmp_path / "config.yaml", run.config.model_copy(update={"runs_folder": tmp_path}))
    for part in ("tokenizers", "tokens"):
        shutil.copytree(run.run.path / part, again.run.path / part)
    before = {path: path.read_bytes() for path in sorted(again.run.tokenizers.rglob("*")) if path.is_file()}
    again.config_file.write_text(yaml.safe_dump(json.loads(again.config.model_dump_json())))
    for what in (("tokenizer", "train"), ("data", "tokenize")):
        assert invoke(*what, again.config_file).exit_code == 0
    assert before == {path: path.read_bytes() for path in sorted(again.run.tokenizers.rglob("*")) if path.is_file()}
    train_here(again.config)
    shutil.rmtree(max(again.run.checkpoints.iterdir()))
    train_here(again.config)
    assert again.run.metrics.read_bytes() == run.run.metrics.read_bytes()


def test_eval_tells_what_films_can_tell(run: TinyRun) -> None:
    done = invoke("eval", run.run.path)
    assert done.exit_code == 0, done.output
    told = read_json(run.run.evaluation)
    rows = {row["metric"]: row for row in told["rows"]}
    drawn = rows["frame drawn from its latent action, PSNR"]
    assert drawn["model"] > drawn["baseline"] + 3, "the code says what happens"
    assert "next frame PSNR, 1 step" in rows and "delta-PSNR, 1 step" in rows
    assert not [name for name in rows if "told by" in name or "counterfactual" in name], "nobody knows what was done"
    assert told["reliability"] == {"real": [], "own": []}
    report = invoke("report", run.run.path)
    assert report.exit_code == 0 and "latent_" in run.run.report.read_text()


def test_its_world_is_stepped_by_the_codes(run: TinyRun, tmp_path: Path) -> None:
    bench = invoke("world", "bench", run.run.path, "--frames", "10")
    assert bench.exit_code == 0 and "frames/s" in bench.output, bench.output
    film = tmp_path / "film.gif"
    made = invoke("generate", run.run.path, "--actions", "latent_0,latent_7,3", "--out", film)
    assert made.exit_code == 0 and film.exists(), made.output
    outside = command("generate", str(run.run.path), "--actions", "latent_8")
    assert outside.returncode != 0 and "unknown action 'latent_8'; this world has latent_0, latent_1" in outside.stderr
    assert "Traceback" not in outside.stderr


def test_its_world_is_played_by_the_codes(run: TinyRun) -> None:
    ground = open_playground([load_run(run.run.path)], PlaySettings(passes=1))

    async def story() -> None:
        world = await PlayedWorld.begin(ground, 0, [0], beside_reality=True)
        await world.advance(7, 1)
        assert world.history.step == 1 and world.history.here().action == 7
        with pytest.raises(ValueError, match="action"):
            await world.advance(8, 1)
        assert world.history.step == 1, "nothing has moved"
        await world.close()

    try:
        assert ground.controls.names == tuple(f"latent_{code}" for code in range(8))
        assert len(set(ground.controls.keys)) == 8 and ground.environment is None
        asyncio.run(story())
    finally:
        ground.close()


def test_without_inferred_actions_there_is_nothing_to_do_in_their_world(films: Path, tmp_path: Path) -> None:
    """They teach what happens next all the same."""
    run = film_run(tmp_path, films, None)
    for what in (("tokenizer", "train"), ("data", "tokenize")):
        assert invoke(*what, run.config_file).exit_code == 0
    train_here(run.config)
    assert len(run.metrics()) == STAGE["steps"]
    for arguments in (("world", "bench", run.run.path), ("generate", run.run.path, "--actions", "left")):
        assert "switch on tokenizers.latent_action" in str(invoke(*arguments).exception)
    played = command("play", str(run.run.path), "--port", "0")
    assert played.returncode == 2 and "switch on tokenizers.latent_action" in played.stderr
    assert played.stderr.count("\n") == 1 and "http://" not in played.stdout
