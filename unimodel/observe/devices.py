"""How fast a device could be: dense bf16 matrix multiplications, by the makers' data sheets."""

from __future__ import annotations

import re

import torch

PEAK_TFLOPS: tuple[tuple[str, float], ...] = (
    (r"GB200", 2500.0),
    (r"B200", 2250.0),
    (r"GH200", 989.4),
    (r"H[12]00 NVL", 835.5),
    (r"H100 PCIe", 756.0),
    (r"H[128]00", 989.4),
    (r"A[18]00", 312.0),
    (r"A40\b", 149.7),
    (r"A30\b", 165.0),
    (r"L40S", 362.0),
    (r"L40\b", 181.0),
    (r"L4\b", 121.0),
    (r"RTX 5090", 209.5),
    (r"RTX 4090", 165.2),
    (r"RTX 3090", 71.0),
    (r"MI300X", 1307.4),
)
"""Pattern in `torch.cuda.get_device_name` -> 10^12 operations per second without sparsity, accumulated in fp32 on
GeForce cards; the first that matches counts."""


def peak_tflops(name: str) -> float | None:
    """Of a device by its name; None when its data sheet is not known here."""
    return next((peak for pattern, peak in PEAK_TFLOPS if re.search(pattern, name)), None)


def device_peak_tflops(device: torch.device) -> float | None:
    """Of a GPU; None on a CPU, whose peak depends on more than its name."""
    return peak_tflops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
