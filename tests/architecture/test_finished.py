"""What is done already is told without torch: the second run of a command answers in a second.

Run: pytest tests/architecture/test_finished.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "unimodel").rglob("finished.py")
)


@pytest.mark.parametrize("module", [*MODULES, "unimodel.cli", "data_pipelines.shards.verify"])
def test_asking_imports_no_torch(module: str) -> None:
    script = f"import {module}, sys; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_training_opens_no_environment() -> None:
    """SDL, which environments bring along, takes over the signal by which ranks are told to leave."""
    script = "import unimodel.training.train, sys; sys.exit('pygame' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
