"""Every run file that ships is valid and is rebuilt exactly from its resolved form.

Run: pytest tests/architecture/test_configs.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from data_pipelines.build.settings import BuildSettings
from unimodel.config_file import dump_config, load_config, load_settings

CONFIGS = Path(__file__).parents[2] / "configs"
RUN_FILES = sorted(
    path.relative_to(CONFIGS)
    for path in CONFIGS.rglob("*.yaml")
    if "name" in (yaml.safe_load(path.read_text(encoding="utf-8")) or {})
)


def test_there_are_run_files() -> None:
    assert Path("demo.yaml") in RUN_FILES


@pytest.mark.parametrize("file", RUN_FILES, ids=str)
def test_run_file_is_valid_and_survives_dump_and_reload(file: Path, tmp_path: Path) -> None:
    config = load_config(CONFIGS / file)
    resolved = tmp_path / "config.yaml"
    resolved.write_text(dump_config(config), encoding="utf-8")
    assert load_config(resolved) == config


@pytest.mark.parametrize("file", sorted((CONFIGS / "data").glob("*.yaml")), ids=lambda path: path.name)
def test_build_file_is_valid(file: Path) -> None:
    assert load_settings(file, None, BuildSettings, "build file").folder
