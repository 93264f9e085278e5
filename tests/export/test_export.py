"""An export loads with plain transformers, says what it is, and arrives whole on a Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import hub_server
from safetensors.torch import load_file, save_file
from toy_run import make_toy_run

from unimodel.export.folder import MARKER, export_files, export_run, reload_difference
from unimodel.run_folder import RunFolder
from unimodel.training.loaded_run import load_run

TOKEN = "hf_averysecrettoken0123456789"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_toy_run(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def exported(toy: RunFolder) -> Path:
    folder = toy.path / "export"
    export_run(toy.path, folder)
    return folder


def unimodel(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unimodel", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def push(toy: RunFolder, folder: Path, address: str, token: str) -> subprocess.CompletedProcess[str]:
    environment = {"HF_ENDPOINT": address, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    arguments = ("export", str(toy.path), "--out", str(folder), "--push", "owner/name")
    return unimodel(*arguments, HF_HUB_DISABLE_TELEMETRY="1", **environment)


def test_a_second_export_does_nothing(toy: RunFolder, exported: Path) -> None:
    before = {name: (exported / name).stat().st_mtime_ns for name in export_files(exported)}
    done = unimodel("export", str(toy.path), "--out", str(exported))
    assert "already exported" in done.stdout, done
    assert before == {name: (exported / name).stat().st_mtime_ns for name in export_files(exported)}


def test_plain_transformers_gives_the_runs_logits(toy: RunFolder, exported: Path) -> None:
    """In a process that cannot import this project; also the text tokenizer's ids are the model's ids."""
    script = (
        "import sys, torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "torch.set_num_threads(1)\ntokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()\n"
        "ids = tokenizer('agent facing left at c5; red ball at d3', return_tensors='pt').input_ids\n"
        "from safetensors.torch import save_file\n"
        "save_file({'ids': ids, 'logits': model(input_ids=ids).logits.detach()}, sys.argv[2])\n"
        "assert not any(name.startswith('unimodel') for name in sys.modules)\n"
    )
    answer = toy.path / "answer.safetensors"
    subprocess.run([sys.executable, "-I", "-c", script, str(exported), str(answer)], check=True, cwd="/")
    saved = load_file(answer)
    loaded = load_run(toy.path)
    assert saved["ids"].tolist()[0] == loaded.bundle.text("agent facing left at c5; red ball at d3")["input_ids"]
    torch.set_num_threads(1)
    with torch.no_grad():
        logits = loaded.backbone.decoder(input_ids=saved["ids"]).logits
    assert torch.equal(saved["logits"], logits)


def test_the_reload_check_notices_a_changed_weight(toy: RunFolder, exported: Path, tmp_path: Path) -> None:
    for name in export_files(exported):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"] += 0.5
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert reload_difference(load_run(toy.path), tmp_path) > 0


def test_a_folder_that_is_no_export_is_left_alone(toy: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = unimodel("export", str(toy.path), "--out", str(tmp_path))
    assert done.returncode == 2 and "is not an export" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_card_and_the_ranges_describe_the_run(toy: RunFolder, exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "BabyAI-GoToLocalS8N3-v0" in card and "Not evaluated" in card and "dynamics (diffusion_forcing)" in card
    ranges = json.loads((exported / "token_ranges.json").read_text())
    vocabulary = load_run(toy.path).bundle.vocabulary
    assert ranges["image"][1] - ranges["image"][0] == vocabulary.image_size
    assert json.loads((exported / MARKER).read_text())["stage"] == "interactive"


def test_a_push_arrives_byte_complete_and_never_shows_the_token(toy: RunFolder, exported: Path) -> None:
    with hub_server(TOKEN) as hub:
        done = push(toy, exported, hub.address, TOKEN)
    assert done.returncode == 0, done.stderr
    assert hub.tokens == {TOKEN}
    sent = {name: (exported / name).read_bytes() for name in export_files(exported)}
    assert {name: hub.files[name] for name in sent} == sent
    assert TOKEN not in done.stdout + done.stderr
    written = [file for file in toy.path.rglob("*") if file.is_file()]
    assert not [file for file in written if TOKEN.encode() in file.read_bytes()]


def test_a_refused_token_is_one_message_without_the_token(toy: RunFolder, exported: Path) -> None:
    with hub_server(TOKEN) as hub:
        done = push(toy, exported, hub.address, "hf_wrongtokenwrongtoken")
    assert done.returncode == 2 and "token is missing or wrong" in done.stderr
    assert "Traceback" not in done.stderr and "hf_wrong" not in done.stdout + done.stderr


def test_an_incomplete_push_is_named(toy: RunFolder, exported: Path) -> None:
    with hub_server(TOKEN) as hub:
        hub.drop = "config.json"
        done = push(toy, exported, hub.address, TOKEN)
    assert done.returncode == 2 and "incomplete: config.json" in done.stderr


def test_a_push_without_network_says_so(toy: RunFolder, exported: Path) -> None:
    done = unimodel("export", str(toy.path), "--out", str(exported), "--push", "owner/name", HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and "HF_HUB_OFFLINE" in done.stderr and "Traceback" not in done.stderr
