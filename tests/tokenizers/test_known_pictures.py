"""A source that the tokenizers are not fitted to: `tokenizer_samples: 0`.

Run: pytest tests/tokenizers/test_known_pictures.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_run import SHARED_BY_STAGES, world_config

from data_pipelines.sources.recording import Recording, record_dataset
from unimodel.config import RunConfig
from unimodel.config_file import settings_of
from unimodel.run_folder import RunFolder
from unimodel.tokenizers.prepare import load_run_bundle, train_tokenizers
from unimodel.tokenizers.tokenise import tokenise_dataset

COUNTS = {"train_episodes": 6, "validation_episodes": 1, "test_episodes": 1, "max_steps": 4}
TILES = COUNTS | {
    "environment": "data_pipelines.sources.recall:RecallTiles-v0",
    "image_size": 16,
    "policies": [{"kind": "recall", "gap_steps": [1, 3]}],
}
STAGE: dict[str, Any] = {
    "number": 3,
    "steps": 1,
    "mixture": [{"sequence": "interaction", "objective": "frames", "frames": 3}],
    "objectives": {"frames": {"kind": "diffusion_forcing"}},
}


def prepared(folder: Path, sources: dict[str, Any]) -> RunFolder:
    """A run of delayed recall, two actions, and of what else there is."""
    values = world_config(folder)
    values["data"] |= {"recording": TILES, "sources": sources}
    values["stages"] = {"interactive": SHARED_BY_STAGES | STAGE}
    config = RunConfig.model_validate_json(json.dumps(values))
    for data in (config.data, *config.data.sources.values()):
        assert data.recording is not None
        record_dataset(Path(data.folder), Recording(seed=1, **settings_of(data.recording)), processes=1)
    run = RunFolder(config.folder)
    train_tokenizers(config, run)
    tokenise_dataset(config, run)
    return run


def test_the_codes_are_those_of_the_others_and_all_actions_are_known(tmp_path: Path) -> None:
    rooms = {"folder": str(tmp_path / "rooms"), "tokenizer_samples": 0, "recording": COUNTS | {"image_size": 64}}
    alone, beside = prepared(tmp_path / "alone", {}), prepared(tmp_path / "beside", {"rooms": rooms})
    for part in ("image", "text"):
        files, others = ({p.name: p.read_bytes() for p in (run.tokenizers / part).iterdir()} for run in (alone, beside))
        assert files and files == others
    assert load_run_bundle(alone).vocabulary.action_size == 2
    assert load_run_bundle(beside).vocabulary.action_size == 7
