"""What every test starts from: no network, no GPU unless asked for, one thread, the same examples every time."""

from __future__ import annotations

import os

import pytest

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def pytest_configure(config: pytest.Config) -> None:
    """Runs before any test module, hence before torch and DeepSpeed, which read the environment at import."""
    marks = config.getoption("markexpr", default="").replace("not gpu", "")
    if "gpu" not in marks:
        os.environ |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}

    import hypothesis
    import torch

    torch.set_num_threads(1)
    hypothesis.settings.register_profile("unimodel", derandomize=True, deadline=None, database=None)
    hypothesis.settings.load_profile("unimodel")
