"""Where weights, moments, activations and rows lie changes nothing of what is learnt.

Run: pytest tests/distributed/test_parallel_settings.py
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from deepspeed.ops.op_builder.async_io import AsyncIOBuilder
from mixed_modality import STAGE, local_batch
from parallel_runs import metrics, train_again, train_on_ranks
from resume_matrix import HALF
from tiny_run import tiny_run
from toy_sequences import TINY_BACKBONE, VOCABULARY

from unimodel.backbone.model import Backbone, build_decoder
from unimodel.config import EngineConfig
from unimodel.training.checkpoint import list_checkpoints
from unimodel.training.engine import build_engine, engine_settings, start_process_group
from unimodel.training.named_state import NamedState
from unimodel.training.step import train_step

HAS_LIBAIO = AsyncIOBuilder().is_compatible(verbose=False)
LARGER = TINY_BACKBONE.model_copy(update={"hidden_size": 192, "intermediate_size": 512})
ROUNDED_NORM = 1e-6
"""Of losses where gradients are clipped: ZeRO 3 sums their norm in another order when states are offloaded."""
STEPS = 10
SETTINGS = (
    f"stages.interactive.steps={STEPS}",
    f"checkpoint.every_steps={HALF}",
    "checkpoint.keep_last=9",
    "faults.hang_seconds=null",
)
ADAMW = (
    "stages.interactive.optimizer.kind=adamw",
    "stages.interactive.optimizer.epsilon=0.05",
    "stages.interactive.optimizer.learning_rate=0.02",
    "stages.interactive.optimizer.gradient_clip=100.0",
)
"""With Adam's usual epsilon, or clipping, a gradient that is a factor too small or too large would not show."""
OPTIMIZER, PARAMETERS = "engine.offload_optimizer=cpu", "engine.offload_parameters=cpu"
CHECKPOINTING, ON_HOST = "engine.activation_checkpointing=true", "engine.activation_offload=true"
TWO_ROWS, HIERARCHY = "engine.sequence_parallel=2", "engine.hierarchical_ranks=2"
MUON, BF16 = "stages.interactive.optimizer.kind=muon", "engine.precision=bf16"


@pytest.mark.parametrize("precision", ["high", "medium", "highest"])
def test_how_exact_products_are_is_said_to_torch_and_holds_until_another_run_says_otherwise(precision: str) -> None:
    start_process_group(EngineConfig(matmul_precision=precision))  # pyright: ignore[reportArgumentType]
    assert torch.get_float32_matmul_precision() == precision
    start_process_group(EngineConfig())
    assert torch.get_float32_matmul_precision() == "highest"


def zero(stage: int) -> str:
    return f"engine.zero={stage}"


def a_run(folder: Path) -> Path:
    """The tiny run that all of a test's runs are made from."""
    tiny_run(folder, *SETTINGS, *ADAMW, stages=("interactive",))
    start_process_group(EngineConfig())
    return folder


def states(folder: Path, name: str) -> list[dict[str, bytes]]:
    """The tensors in each checkpoint of a run, newest first."""
    checkpoints = list_checkpoints(folder / name / "tiny" / "checkpoints")
    return [{file.name: file.read_bytes() for file in path.glob("*.safetensors")} for path in checkpoints]


def require_equal(folder: Path, one: str, other: str) -> None:
    """Bit for bit: weights, moments, averages, and all metrics but the gradient's norm, whose sum has another order."""
    left, right = states(folder, one), states(folder, other)
    assert left == right and len(left) == 3
    lines, there = (
        [{key: value for key, value in line.items() if key != "gradient_norm"} for line in metrics(folder, name)]
        for name in (one, other)
    )
    assert lines == there and len(lines) == STEPS


def require_close(folder: Path, one: str, other: str, tolerance: float = 1e-5) -> None:
    """Losses and their parts to the tolerance, counts exactly."""
    lines, others = metrics(folder, one), metrics(folder, other)
    assert len(lines) == len(others) == STEPS
    for line, there in zip(lines, others, strict=True):
        for name, value in line.items():
            if name.startswith(("loss", "nats")):
                assert there[name] == pytest.approx(value, rel=tolerance), (line["step"], name)
        for name in line:
            if name.startswith("tokens") or name == "padding_fraction":
                assert there[name] == line[name], (line["step"], name)
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"], "it trains, so that a wrong gradient would show"


OFFLOADED = (
    (zero(1), OPTIMIZER),
    (zero(2), OPTIMIZER),
    (zero(3), OPTIMIZER),
    (zero(3), PARAMETERS),
    (zero(3), OPTIMIZER, PARAMETERS),
)


@pytest.mark.parametrize("settings", [(zero(1), OPTIMIZER), (zero(3), OPTIMIZER, PARAMETERS)], ids=" ".join)
def test_offloading_changes_nothing(settings: tuple[str, ...], tmp_path: Path) -> None:
    """Not a bit; and a run that was begun without goes on with it."""
    folder = a_run(tmp_path)
    train_again(folder, "plain", settings[:1])
    train_again(folder, "offloaded", settings)
    require_equal(folder, "plain", "offloaded")
    train_again(folder, "resumed", settings, "plain")
    assert states(folder, "resumed")[0] == states(folder, "plain")[0]


def losses_around_a_skip(settings: EngineConfig) -> list[float]:
    """Two steps, one that is skipped, two more."""
    device = start_process_group(settings)
    engine = build_engine(Backbone(build_decoder(LARGER, VOCABULARY, 0)), settings, STAGE, device)
    NamedState(engine, {}).initialise(0, with_average=True)
    limits = [math.inf, math.inf, 0.0, math.inf, math.inf]
    reports = [
        train_step(engine, local_batch(step), STAGE, VOCABULARY, loss_limit=limit) for step, limit in enumerate(limits)
    ]
    assert [report.skipped for report in reports] == [limit == 0 for limit in limits]
    engine.destroy()
    return [report.loss for report in reports]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_steps_are_skipped_where_states_are_offloaded(stage: int) -> None:
    offloaded = EngineConfig(zero=stage, offload_optimizer="cpu")
    losses = losses_around_a_skip(offloaded)
    assert losses == pytest.approx(losses_around_a_skip(EngineConfig(zero=stage)), rel=ROUNDED_NORM)


@pytest.mark.skipif(HAS_LIBAIO, reason="libaio is there")
def test_nvme_without_libaio_is_refused(tmp_path: Path) -> None:
    start_process_group(EngineConfig())
    settings = EngineConfig(zero=3, offload_optimizer="nvme", nvme_folder=tmp_path)
    with pytest.raises(
        ValueError, match=r"offload_optimizer \(nvme\) needs the library libaio.*apt install libaio-dev"
    ):
        engine_settings(settings, STAGE, 1, 1000)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBAIO, reason="needs libaio-dev, and minutes to compile DeepSpeed's asynchronous I/O")
def test_files_on_nvme_change_nothing(tmp_path: Path) -> None:
    """A model large enough that DeepSpeed does put its states into files, of 1 MiB or more each."""
    folder, swapped = tmp_path / "runs", tmp_path / "nvme"
    tiny_run(
        folder, *SETTINGS, *ADAMW, "backbone.hidden_size=192", "backbone.intermediate_size=512", stages=("interactive",)
    )
    start_process_group(EngineConfig())
    nvme = (zero(3), "engine.offload_optimizer=nvme", f"engine.nvme_folder={swapped}")
    for kind in ("adamw", "muon"):
        optimizer = f"stages.interactive.optimizer.kind={kind}"
        train_again(folder, f"plain {kind}", (zero(3), optimizer))
        train_again(folder, f"nvme {kind}", (*nvme, optimizer))
        assert list(swapped.rglob("*.swp"))
        require_equal(folder, f"plain {kind}", f"nvme {kind}")
        train_again(folder, f"resumed {kind}", (*nvme, optimizer), f"nvme {kind}")
        assert states(folder, f"resumed {kind}")[0] == states(folder, f"plain {kind}")[0]
    settings = EngineConfig(zero=3, offload_optimizer="nvme", nvme_folder=swapped)
    assert losses_around_a_skip(settings) == pytest.approx(losses_around_a_skip(EngineConfig(zero=3)), rel=ROUNDED_NORM)


@pytest.mark.parametrize("stage", [0, 3])
def test_activations_on_the_host_change_nothing(stage: int, tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    train_again(folder, "plain", (zero(stage),))
    train_again(folder, "on host", (zero(stage), CHECKPOINTING, ON_HOST))
    require_equal(folder, "plain", "on host")


def test_rows_are_shared_and_the_run_goes_on_alone(tmp_path: Path) -> None:
    """The whole loop, under ZeRO 3 with all that it has: two ranks share rows, one goes on from their checkpoint."""
    folder = a_run(tmp_path)
    shared = (zero(3), TWO_ROWS, HIERARCHY, CHECKPOINTING, ON_HOST, OPTIMIZER, PARAMETERS)
    train_on_ranks(2, folder, {"shared": shared})
    train_again(folder, "alone", (zero(3),))
    train_again(folder, "moved", (zero(1),), "shared")
    require_close(folder, "alone", "shared")
    require_close(folder, "alone", "moved")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_way_to_offload_on_two_ranks(precision: str, tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    runs = {
        " ".join([kind, *settings]): (
            *settings,
            f"stages.interactive.optimizer.kind={kind}",
            f"engine.precision={precision}",
        )
        for kind in ("adamw", "muon")
        for settings in (*OFFLOADED, *((zero(stage),) for stage in (1, 2, 3)))
    }
    train_on_ranks(2, folder, runs)
    for kind in ("adamw", "muon"):
        for settings in OFFLOADED:
            require_equal(folder, f"{kind} {settings[0]}", " ".join([kind, *settings]))


@pytest.mark.slow
def test_four_ranks_in_groups_of_two(tmp_path: Path) -> None:
    """Rows shared by two, of two pairs; weights held twice, by each pair."""
    folder = a_run(tmp_path)
    runs = {
        **{f"shared {stage}": (zero(stage), TWO_ROWS) for stage in range(4)},
        "muon": (zero(1), MUON),
        "muon shared": (zero(1), MUON, TWO_ROWS),
        "accumulated": (zero(2), TWO_ROWS, "stages.interactive.batch.accumulation=2"),
        "plain": (zero(3),),
        "hierarchical": (zero(3), HIERARCHY),
        "hierarchical offloaded": (zero(3), HIERARCHY, OPTIMIZER, PARAMETERS),
        "plain bf16": (zero(3), BF16),
        "hierarchical bf16": (zero(3), BF16, HIERARCHY),
    }
    train_on_ranks(4, folder, runs)
    train_again(folder, "alone", (zero(0),))
    for name in ("shared 0", "shared 1", "shared 2", "shared 3", "accumulated", "plain"):
        require_close(folder, "alone", name)
    require_close(folder, "muon", "muon shared")
    require_equal(folder, "plain", "hierarchical")
    require_equal(folder, "plain", "hierarchical offloaded")
    require_equal(folder, "plain bf16", "hierarchical bf16")
