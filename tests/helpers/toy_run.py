"""A whole run folder in seconds: real episodes, real tokenizers (hardly trained), random weights marked as finished."""

from __future__ import annotations

from pathlib import Path

from saved_checkpoints import save_checkpoint

from data_pipelines.shards.storage import local_folder
from data_pipelines.sources.recording import Recording, record_dataset
from data_pipelines.stream.plan import StreamState
from unimodel.backbone.model import Backbone, build_decoder
from unimodel.config import RunConfig
from unimodel.config_file import settings_of, validate
from unimodel.run_folder import RunFolder
from unimodel.tokenizers.prepare import load_run_bundle, train_tokenizers
from unimodel.tokenizers.tokenise import tokenise_dataset
from unimodel.training.checkpoint import TrainPosition
from unimodel.training.stored_state import WEIGHT

STAGES = {
    "masked": {
        "number": 1,
        "steps": 2,
        "batch": {"rows": 4, "row_tokens": 512},
        "mixture": [{"sequence": "clip", "objective": "all"}],
        "objectives": {"all": {"kind": "masked"}},
    },
    "interactive": {
        "number": 3,
        "steps": 2,
        "batch": {"rows": 4, "row_tokens": 512},
        "mixture": [
            {"sequence": "interaction", "objective": "dynamics", "agent": "policy", "frames": 4},
            {"sequence": "text_to_image", "objective": "image"},
            {"sequence": "image_to_text", "objective": "text"},
        ],
        "objectives": {
            "dynamics": {"kind": "diffusion_forcing"},
            "policy": {"kind": "policy"},
            "image": {"kind": "masked", "attention": "span"},
            "text": {"kind": "next_token"},
        },
    },
}


def toy_config(folder: Path, **changes: object) -> RunConfig:
    """The config of a run in `folder`/runs/toy on data in `folder`/data, with `changes` to its recording."""
    recording: dict[str, object] = {
        "train_episodes": 6,
        "validation_episodes": 2,
        "test_episodes": 4,
        "max_steps": 10,
        "episodes_per_shard": 3,
    } | changes
    values = {
        "name": "toy",
        "runs_folder": str(folder / "runs"),
        "data": {"folder": str(folder / "data"), "recording": recording},
        "tokenizers": {"text": {"vocabulary_size": 300}, "image": {"width": 16, "steps": 20, "batch_frames": 8}},
        "backbone": {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 64,
            "attention_bias": True,
        },
        "stages": STAGES,
        "evaluation": {"episodes": 4, "branch_states": 2, "horizons": [1, 2], "sampling_steps": 2},
    }
    return validate(values, "toy")


def make_toy_run(folder: Path, **changes: object) -> RunFolder:
    """Everything up to and including a finished last stage, with `changes` to the recording."""
    config = toy_config(folder, **changes)
    run = RunFolder(config.folder)
    recording = Recording(seed=config.seed, **settings_of(config.data.recording))
    record_dataset(local_folder(config.data.folder), recording, processes=1)
    train_tokenizers(config, run)
    tokenise_dataset(config, run)
    run.store_config(config)
    weights = Backbone(build_decoder(config.backbone, load_run_bundle(run).vocabulary, config.seed)).named_parameters()
    tensors = {WEIGHT: {name: value.detach() for name, value in weights}}
    for step, stage in ((2, "masked"), (4, "interactive")):
        position = TrainPosition(step, stage, 2, True, 2, StreamState())
        save_checkpoint(run.checkpoints, position, settings_of(config), tensors)
    return run
