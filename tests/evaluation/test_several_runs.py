"""Several runs of one config: means and intervals over seeds, and what must not be put together.

Run: pytest tests/evaluation/test_several_runs.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unimodel.cli import summary_command
from unimodel.config_file import validate
from unimodel.evaluation.several_runs import lines_over_runs
from unimodel.evaluation.table import Row
from unimodel.run_folder import RunFolder, write_json

STAGE = {
    "number": 3,
    "steps": 5,
    "mixture": [{"sequence": "interaction", "objective": "frames"}],
    "objectives": {"frames": {"kind": "diffusion_forcing"}},
}


def _run(folder: Path, seed: int, accuracy: float, *, split: str = "test", **changes: Any) -> Path:
    """A run folder with a config and an evaluation, and nothing else."""
    values = {
        "name": f"seed{seed}-{accuracy}",
        "seed": seed,
        "runs_folder": str(folder),
        "data": {"folder": str(folder / f"data{seed}")},
        "stages": {"play": {**STAGE, **changes}},
    }
    config = validate(values, "test")
    run = RunFolder(config.folder)
    run.store_config(config)
    rows = [Row("counterfactual action accuracy", "play", accuracy, 0.25, "chance", 40)]
    details = [Row("drift of PSNR per frame, dB", "play", -seed, None, "copying: -1", 9)]
    state = {"split": split, "stages": {"play": 5}}
    write_json(
        run.evaluation,
        {"state": state, "rows": [row.to_dict() for row in rows], "details": [row.to_dict() for row in details]},
    )
    return run.path


def test_mean_interval_and_how_often_it_is_better(tmp_path: Path) -> None:
    runs = [_run(tmp_path, seed, accuracy) for seed, accuracy in enumerate((0.2, 0.5, 0.8))]
    # t = 4.303 for 2 degrees of freedom; standard error 0.3 / sqrt(3)
    assert lines_over_runs(runs, "rows") == [
        ("counterfactual action accuracy", "play", "0.500 [-0.245, 1.245]", "0.250 (chance)", "2 of 3")
    ]
    ((metric, _, figure, baseline, better),) = lines_over_runs(runs, "details")
    assert (metric, baseline, better) == ("drift of PSNR per frame, dB", "copying: -1", "3 runs")
    assert figure.startswith("-1.000 [")


def test_runs_that_differ_in_more_than_the_seed_are_refused(tmp_path: Path) -> None:
    one, other = _run(tmp_path, 0, 0.5), _run(tmp_path, 1, 0.6, steps=6)
    with pytest.raises(ValueError, match=r"differ in more than the seed: stages.play.steps \(was 5, is 6\)"):
        lines_over_runs([one, other], "rows")
    elsewhere = _run(tmp_path, 2, 0.6, split="validation")
    with pytest.raises(ValueError, match=r"evaluated.split \(was 'test', is 'validation'\)"):
        lines_over_runs([one, elsewhere], "rows")


def test_one_seed_twice_is_no_second_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both have seed 4: train one of them with --set seed=N"):
        lines_over_runs([_run(tmp_path, 4, 0.5), _run(tmp_path, 4, 0.6)], "rows")


def test_a_run_that_was_not_evaluated_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent has no evaluation.json: run `unimodel eval"):
        lines_over_runs([_run(tmp_path, 0, 0.5), tmp_path / "absent"], "rows")


def test_summary_prints_one_run_or_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [_run(tmp_path, seed, 0.5) for seed in range(2)]
    summary_command(runs)
    assert "2 of 2" in " ".join(capsys.readouterr().out.split())
    summary_command(runs[:1], details=True)
    said = " ".join(capsys.readouterr().out.split())
    assert "yes" in said and "drift" in said
