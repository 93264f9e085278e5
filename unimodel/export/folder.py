"""A run as a Hugging Face folder: plain `AutoModelForCausalLM` and `AutoTokenizer` load it, without this project.

Beside the weights lie those of the memory, if there is one, the image tokenizer, the vocabulary's ranges, the resolved
config and the measured figures. The folder is made under a hidden name, reloaded in a clean process, compared logit by
logit, and only then published.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig

from unimodel.config_file import dump_config
from unimodel.errors import RunError
from unimodel.export.card import model_card
from unimodel.export.finished import MARKER, export_source, is_exported
from unimodel.run_folder import read_json, sync_folder, write_atomically, write_json
from unimodel.tokenizers.bundle import VOCABULARY_FILE
from unimodel.training.initial_weights import MEMORY_WEIGHTS
from unimodel.training.loaded_run import LoadedRun, load_run
from unimodel.vocabulary import Modality

CHECK_TOKENS = 64

RELOAD_SCRIPT = """
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, expected = sys.argv[1:]
assert "unimodel" not in sys.modules
torch.set_num_threads(1)
AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
saved = load_file(expected)
with torch.no_grad():
    logits = model(input_ids=saved["input_ids"]).logits
sys.stdout.write(str((logits - saved["logits"]).abs().max().item()))
"""


def export_run(path: Path, out: Path) -> None:
    """Exports the last finished stage of a run into `out`, in place of an older export.

    Raises ValueError when `out` holds something else, RunError when the reloaded model differs from the run's.
    """
    loaded = load_run(path)
    source = export_source(loaded.config, loaded.run)
    is_exported(loaded.config, loaded.run, out)  # refuses a folder that holds something else
    out.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write_files(loaded, hidden, source)
        difference = reload_difference(loaded, hidden)
        if difference != 0.0:
            raise RunError(
                f"the exported model differs from the run's after reloading (logits by {difference}): not published"
            )
        shutil.rmtree(out, ignore_errors=True)
        hidden.rename(out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def reload_difference(loaded: LoadedRun, folder: Path) -> float:
    """Largest difference of logits between the run's model and the folder's, loaded by transformers alone in a new
    process that cannot see this project."""
    ids = torch.arange(CHECK_TOKENS)[None] * 7 % loaded.bundle.vocabulary.used_size
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would differ in the last bit
    with torch.no_grad():
        decoder: Any = loaded.backbone.decoder
        logits = decoder.to("cpu")(input_ids=ids).logits
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        expected = Path(scratch) / "expected.safetensors"
        save_file({"input_ids": ids, "logits": logits}, expected)
        command = [sys.executable, "-I", "-c", RELOAD_SCRIPT, str(folder.resolve()), str(expected)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=scratch, check=False)
    if done.returncode:
        raise RunError(f"the export does not load in a clean process: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.strip().splitlines()[-1])


def _write_files(loaded: LoadedRun, folder: Path, source: dict[str, Any]) -> None:
    bundle = loaded.bundle
    decoder = loaded.backbone.decoder
    decoder.generation_config = GenerationConfig(
        bos_token_id=bundle.text.bos_token_id,
        eos_token_id=bundle.text.eos_token_id,
        pad_token_id=bundle.text.pad_token_id,
        # Plain generate() writes text: codes and masks are not words.
        suppress_tokens=list(range(bundle.vocabulary.text_size, bundle.vocabulary.size)),
        max_new_tokens=128,
    )
    decoder.save_pretrained(folder)
    if loaded.backbone.memory is not None:
        weights = {
            name: value.detach().cpu().contiguous() for name, value in loaded.backbone.memory.state_dict().items()
        }
        save_file(weights, folder / MEMORY_WEIGHTS)
    bundle.text.save_pretrained(folder)
    bundle.image.save(folder)
    if bundle.audio is not None:
        bundle.audio.save(folder)
    memory = loaded.config.stages[loaded.stage].memory
    if bundle.odometer is not None and memory is not None and memory.recalls_by_pose:
        bundle.odometer.save(folder)
    vocabulary = bundle.vocabulary
    ranges = {m.label: [vocabulary.range_of(m).start, vocabulary.range_of(m).stop] for m in Modality}
    write_json(folder / VOCABULARY_FILE, vocabulary.to_dict())
    write_json(folder / "token_ranges.json", ranges)
    write_atomically(folder / "unimodel_config.yaml", dump_config(loaded.config).encode())
    rows = read_json(loaded.run.summary) if loaded.run.summary.exists() else []
    write_json(folder / "evaluation.json", rows)
    num_parameters = sum(parameter.numel() for parameter in decoder.parameters())
    write_atomically(folder / "README.md", model_card(loaded.config, source, rows, ranges, num_parameters).encode())
    write_json(folder / MARKER, source)


def export_files(folder: Path) -> dict[str, int]:
    """Relative name -> bytes of everything in an export."""
    return {str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()}


def read_marker(folder: Path) -> dict[str, Any]:
    """What an export was made from. Raises ValueError when `folder` is no export."""
    if not (folder / MARKER).exists():
        raise ValueError(f"{folder} is not an export: make one with `unimodel export RUN --out {folder}`")
    return json.loads((folder / MARKER).read_text(encoding="utf-8"))
