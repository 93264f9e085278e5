"""DeepSpeed: the process group, the engine's config, and the optimizer it wraps."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read by DeepSpeed at import

import deepspeed
from deepspeed.ops.op_builder.async_io import AsyncIOBuilder
from deepspeed.utils import logger as deepspeed_logger

from unimodel.backbone.attention import attention_implementation
from unimodel.backbone.model import Backbone
from unimodel.backbone.sequence_parallel import SequenceGroup, swap_in_attention
from unimodel.config import EngineConfig, StageConfig
from unimodel.config_engine import BUCKET_ELEMENTS
from unimodel.training.optimizer import build_optimizer

# DeepSpeed's calls of functions that torch has renamed; nothing that a user of this project could do about.
warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)

NEVER = 1 << 60
NVME_BUFFERS = 5
"""Of a group of parameters at work: fp32 weights, gradient, two moments, moving average."""

# On CPU DeepSpeed compiles a shared-memory all-reduce for inference at start. Training never calls it, it needs a
# compiler, and a process killed in mid-compile leaves a lock on which the next one waits for ever.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def start_process_group(config: EngineConfig) -> torch.device:
    """Joins the launcher's process group, or makes one of a single process. Returns this rank's device. How exact the
    products of fp32 matrices are holds for the whole process."""
    deepspeed_logger.setLevel(logging.ERROR)
    torch.set_float32_matmul_precision(config.matmul_precision)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if cuda else "gloo"
        limit = timedelta(minutes=config.communication_minutes)
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=limit)
        else:
            # DeepSpeed looks for these even when the group exists; without a launcher this process is all there is.
            os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
            os.environ["MASTER_PORT"] = str(_free_port())
            dist.init_process_group(backend, timeout=limit, store=HashStore(), rank=0, world_size=1)
    return device


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def engine_settings(config: EngineConfig, stage: StageConfig, num_ranks: int, trained: int) -> dict[str, Any]:
    """The DeepSpeed config for `trained` parameters. Values whose defaults moved between releases are pinned here."""
    return {
        "train_micro_batch_size_per_gpu": stage.batch.micro_rows(num_ranks // config.sequence_parallel),
        "gradient_accumulation_steps": stage.batch.accumulation * stage.passes_per_update,
        "gradient_clipping": stage.optimizer.gradient_clip,
        "zero_optimization": _zero_settings(config) | {"reduce_bucket_size": min(BUCKET_ELEMENTS, trained)},
        "bf16": {"enabled": config.precision == "bf16", "check_grad_overflow": True},
        "zero_allow_untested_optimizer": True,  # torch's AdamW under ZeRO
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": NEVER,
    }


def _zero_settings(config: EngineConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {"stage": config.zero}
    pinned = {"pin_memory": torch.cuda.is_available()}
    if config.offload_optimizer != "none":
        settings["offload_optimizer"] = {"device": config.offload_optimizer} | pinned
    if config.offload_optimizer == "nvme":
        if not AsyncIOBuilder().is_compatible():
            raise ValueError(
                "engine.offload_optimizer (nvme) needs the library libaio with its headers, which this machine lacks: "
                "`apt install libaio-dev`, or use cpu"
            )
        settings["offload_optimizer"] |= {"nvme_path": str(config.nvme_folder), "buffer_count": NVME_BUFFERS}
    if config.offload_parameters != "none":
        settings["offload_param"] = {"device": config.offload_parameters} | pinned
    if config.hierarchical_ranks > 1:
        settings["zero_hpz_partition_size"] = config.hierarchical_ranks
    return settings


def build_engine(
    backbone: Backbone,
    config: EngineConfig,
    stage: StageConfig,
    device: torch.device,
    sequence: SequenceGroup = SequenceGroup(),  # noqa: B008 - immutable
) -> Any:
    """Wraps the backbone for one stage. Weights must be in place; optimizer state is set afterwards, by name."""
    backbone.decoder.set_attn_implementation(attention_implementation(device))
    backbone.sequence = sequence
    if sequence.size > 1:
        swap_in_attention(backbone.decoder, sequence.size)
    backbone.saves_on_host = config.activation_offload
    if config.activation_checkpointing:
        backbone.decoder.activation_checkpointing_enable({"use_reentrant": False})
    num_ranks = dist.get_world_size()
    if num_ranks % config.hierarchical_ranks:
        raise ValueError(
            f"engine.hierarchical_ranks ({config.hierarchical_ranks}) must divide the number of processes ({num_ranks})"
        )
    trained = sum(parameter.numel() for parameter in backbone.parameters() if parameter.requires_grad)
    settings = engine_settings(config, stage, num_ranks, trained)
    if config.nvme_folder is not None:  # files of an engine before this one have other names, and nobody deletes them
        shutil.rmtree(config.nvme_folder / "zero_stage_3" / "optimizer" / f"rank{dist.get_rank()}", ignore_errors=True)
    engine, *_ = deepspeed.initialize(model=backbone, optimizer=build_optimizer(backbone, stage), config=settings)
    return engine
