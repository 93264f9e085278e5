"""Bad nodes are found, and named.

Run: pytest tests/training/test_health.py
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from unimodel.training.health import Facts, find_problems

GOOD = [Facts(f"host{n // 2}", n, "torch 2", "H200", 1000.0 + n / 10, 100.0, True, 2000.0) for n in range(8)]


def test_equal_nodes_have_no_problems() -> None:
    assert find_problems(GOOD) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"versions": "torch 1"}, "host1: has torch 1, most have torch 2"),
        ({"device": "H100"}, "host1: rank 3 is on H100, most are on H200"),
        ({"clock_seconds": 1060.0}, "host1: its clock is +60 seconds off"),
        ({"free_gigabytes": 0.5}, "host1: 0.5 GB free where the run is written"),
        ({"sees_run_folder": False}, "host1: does not see the run's folder as rank 0 does"),
        ({"copy_gigabytes_per_second": 900.0}, "host1: rank 3 copies 900.0 GB/s, most 2000.0"),
    ],
)
def test_what_is_wrong_is_told_with_the_host(change: dict[str, Any], told: str) -> None:
    facts = [replace(one, **change) if one.rank == 3 else one for one in GOOD]
    (problem,) = find_problems(facts)
    assert problem.startswith(told)
