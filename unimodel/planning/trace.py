"""One micro-batch through the decoder without a number in it: what it keeps in memory, and what work it is.

The decoder that would train runs forward and backward on fake tensors, which have shapes and no values. What is alive
at every operation gives the peak of the activations, the operations themselves give the time. A few layers are enough:
every further one adds the same.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AttentionInterface, AutoModelForCausalLM

from unimodel.backbone.model import huggingface_config
from unimodel.config import BackboneConfig
from unimodel.vocabulary import Modality, Vocabulary

SHALLOW, DEEP = 2, 4
"""Layers of the two traces whose difference is what a layer adds."""
ATTENTION = "planned"
HEAP_BYTES = 32 << 20
"""glibc gives larger tensors pages of their own, which go back at once."""
MATMULS = ("mm", "addmm", "bmm", "baddbmm")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What decides the work of one micro-batch on one device."""

    rows: int
    length: int
    targets: tuple[tuple[Modality, int], ...]
    """Supervised places by modality."""
    dense_mask: bool
    """On CPU the mask has a byte for every pair of places; on CUDA it has a bit for every tile of them."""
    checkpointing: bool


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of operation on tensors of these shapes."""

    name: str
    flops: int
    moved_bytes: int
    """Of its inputs and outputs."""
    arguments: tuple[str, ...]
    """Shapes and kinds of its tensors: operations with the same ones take the same time."""


def kind_of(name: str) -> str:
    """Which of a device's rates an operation runs at."""
    if "attention" in name:
        return "attention"
    return "matmul" if name in MATMULS else "stream"


@dataclass(frozen=True, slots=True)
class Trace:
    """Of forward, loss and backward of one micro-batch. Gradients of parameters are no part of the bytes."""

    peak_bytes: int
    small_bytes: int
    """Of those, what lies in tensors that glibc keeps on its heap (`HEAP_BYTES`)."""
    work: Mapping[Operation, float]
    """How often each operation runs."""

    @property
    def flops(self) -> float:
        return sum(operation.flops * times for operation, times in self.work.items())


def trace_micro_batch(backbone: BackboneConfig, vocabulary: Vocabulary, precision: str, batch: MicroBatch) -> Trace:
    """The trace of the whole decoder, from those of two shallow ones."""
    layers = backbone.num_layers
    if layers <= DEEP:
        return _trace(backbone, vocabulary, precision, batch)
    shallow, deep = (
        _trace(backbone.model_copy(update={"num_layers": number}), vocabulary, precision, batch)
        for number in (SHALLOW, DEEP)
    )
    further = (layers - DEEP) / (DEEP - SHALLOW)

    def extended(few: float, more: float) -> float:
        return more + (more - few) * further

    return Trace(
        round(extended(shallow.peak_bytes, deep.peak_bytes)),
        round(extended(shallow.small_bytes, deep.small_bytes)),
        {operation: extended(shallow.work.get(operation, 0), times) for operation, times in deep.work.items()},
    )


def _trace(backbone: BackboneConfig, vocabulary: Vocabulary, precision: str, batch: MicroBatch) -> Trace:
    with FakeTensorMode(allow_non_fake_inputs=True):
        decoder = planned_decoder(backbone, vocabulary, precision, checkpointing=batch.checkpointing)
        for parameter in decoder.parameters():
            parameter.register_post_accumulate_grad_hook(_drop_gradient)
        watch = Watch(decoder.parameters())
        with watch:
            planned_loss(decoder, vocabulary, batch).backward()
    return Trace(watch.peak, watch.small_at_peak, watch.work)


def planned_decoder(backbone: BackboneConfig, vocabulary: Vocabulary, precision: str, *, checkpointing: bool) -> Any:
    """The decoder that would train, with an attention that runs on any kind of tensor."""
    AttentionInterface.register(ATTENTION, _attention)
    decoder = AutoModelForCausalLM.from_config(huggingface_config(backbone, vocabulary), dtype=PRECISIONS[precision])
    decoder.set_attn_implementation(ATTENTION)
    decoder.train()
    if checkpointing:
        decoder.activation_checkpointing_enable({"use_reentrant": False})
    return decoder


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def planned_loss(decoder: Any, vocabulary: Vocabulary, batch: MicroBatch) -> Tensor:
    """The steps of `Backbone.forward` and `loss_sums`, for targets that are counted instead of found."""
    rows, length = batch.rows, batch.length
    ids = torch.zeros(rows, length, dtype=torch.long)
    mask = torch.ones(rows, 1, length, length, dtype=torch.bool) if batch.dense_mask else torch.ones(1, 1, 1, 1).bool()
    positions = ids.expand(4, rows, length) if decoder.config.model_type == "qwen3_5_text" else ids
    hidden = decoder.model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)
    supervised = torch.zeros(sum(number for _, number in batch.targets), dtype=torch.long)
    logits = decoder.lm_head(hidden.last_hidden_state.flatten(0, 1)[supervised])
    loss = logits.new_zeros(1, dtype=torch.float32)
    for modality, number in batch.targets:
        chosen, codes = torch.zeros(number, dtype=torch.long), vocabulary.range_of(modality)
        restricted = logits[chosen, codes.start : codes.stop].float()
        nats = F.cross_entropy(restricted, chosen, reduction="none")
        loss = loss.index_add(0, chosen, torch.ones(number) * nats)
        restricted.argmax(dim=-1)
    return loss.sum()


def _attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **_: Any
) -> tuple[Tensor, None]:
    """Fused attention: it keeps its inputs, its output and a number per row, like the kernels for CPU and for CUDA."""
    dense = attention_mask.shape[-1] == key.shape[-2]
    groups = query.shape[1] // key.shape[1]
    if dense and groups > 1:  # what transformers does with a mask
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask if dense else None, enable_gqa=not dense and groups > 1
    )
    del module
    return output.transpose(1, 2).contiguous(), None


class Watch(TorchDispatchMode):
    """Counts operations, and the bytes of the tensors that they made while those are alive."""

    def __init__(self, parameters: Any) -> None:
        super().__init__()
        self.live = self.peak = self.small = self.small_at_peak = 0
        self.work: Counter[Operation] = Counter()
        self._known = {_storage_id(parameter) for parameter in parameters}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        before = {_storage_id(tensor) for tensor in inputs}
        made = [tensor for tensor in outputs if _storage_id(tensor) not in before]
        for tensor in made:
            self._watch(tensor)
        if made or func._schema.is_mutable:
            self.work[_operation(func, args, kwargs or {}, output, [*inputs, *made])] += 1
        return output

    def _watch(self, tensor: Tensor) -> None:
        number, storage = _storage_id(tensor), tensor.untyped_storage()
        if number in self._known:
            return
        self._known.add(number)
        self._add(storage.nbytes())
        if self.live > self.peak:
            self.peak, self.small_at_peak = self.live, self.small
        weakref.finalize(storage, self._forget, number, storage.nbytes())

    def _forget(self, number: int, num_bytes: int) -> None:
        self._known.discard(number)
        self._add(-num_bytes)

    def _add(self, num_bytes: int) -> None:
        self.live += num_bytes
        if abs(num_bytes) < HEAP_BYTES:
            self.small += num_bytes


def _storage_id(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _operation(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, touched: list[Tensor]
) -> Operation:
    packet = func._overloadpacket
    shapes = tuple(f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in touched)
    count = _ATTENTION_FLOPS.get(str(packet)) or flop_registry.get(packet)
    flops = count(*args, **kwargs, out_val=output) if count else 0
    moved = sum(tensor.numel() * tensor.element_size() for tensor in touched)
    return Operation(packet.__name__, int(flops), moved, shapes)


def _cpu_forward_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _cpu_backward_flops(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


_ATTENTION_FLOPS = {
    "aten._scaled_dot_product_flash_attention_for_cpu": _cpu_forward_flops,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": _cpu_backward_flops,
}
"""Not in torch's registry."""
