"""Peaks by device name, as torch.cuda.get_device_name gives it.

Run: pytest tests/observe/test_devices.py
"""

from __future__ import annotations

import pytest
import torch

from unimodel.observe.devices import device_peak_tflops, peak_tflops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA GB200", 2500.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L40", 181.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA A10", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peak_follows_from_the_name(name: str, peak: float | None) -> None:
    assert peak_tflops(name) == peak


def test_a_cpu_has_no_known_peak() -> None:
    assert device_peak_tflops(torch.device("cpu")) is None
