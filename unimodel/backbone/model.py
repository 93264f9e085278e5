"""The backbone: a stock Hugging Face decoder, an explicit mask, 3-D positions, logits only where a target stands.

Nothing in it belongs to this project but the mask and the positions it is called with, so an export loads with plain
`AutoModelForCausalLM`. No time embedding: masked diffusion does not need one (arXiv 2409.02908).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.nn.attention.flex_attention import BlockMask
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen3_5TextConfig, Qwen3Config

from unimodel.backbone.attention import DENSE, attention_mask
from unimodel.backbone.positions import reading_index
from unimodel.backbone.sequence_parallel import SequenceGroup
from unimodel.batch import PackedBatch, Visibility
from unimodel.config import BackboneConfig
from unimodel.layout import NO_TARGET
from unimodel.vocabulary import Vocabulary

NEW_ROW_STD = 0.02
RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight")


def huggingface_config(config: BackboneConfig, vocabulary: Vocabulary) -> Any:
    """The Hugging Face config of a decoder with the sizes of `config` and the rows of `vocabulary`."""
    sizes = {
        "vocab_size": vocabulary.size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "attention_bias": config.attention_bias,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": True,
        "max_position_embeddings": 1 << 18,
    }
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    match config.family:
        case "qwen3_5_text":
            pairs = config.head_dim // 2
            side = pairs // 3
            rope |= {
                "partial_rotary_factor": 1.0,
                "mrope_section": [pairs - 2 * side, side, side],
                "mrope_interleaved": True,
            }
            return Qwen3_5TextConfig(**sizes, layer_types=["full_attention"] * config.num_layers, rope_parameters=rope)
        case "qwen3":
            return Qwen3Config(**sizes, rope_parameters=rope)
        case "llama":
            return LlamaConfig(**sizes, rope_parameters=rope)


def build_decoder(config: BackboneConfig, vocabulary: Vocabulary, seed: int) -> PreTrainedModel:
    """A decoder in fp32 with weights drawn from `seed`, or pretrained ones with rows added for the new ids.

    Raises ValueError when pretrained weights have fewer text rows than the run's vocabulary needs.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if config.pretrained is None:
            model = AutoModelForCausalLM.from_config(huggingface_config(config, vocabulary), dtype=torch.float32)
            for name, parameter in model.named_parameters():
                if name.endswith(RESIDUAL_OUTPUTS):
                    parameter.data.mul_(config.residual_scale)
            return model
        model = AutoModelForCausalLM.from_pretrained(config.pretrained, dtype=torch.float32)
        old_rows = cast(nn.Embedding, model.get_input_embeddings()).weight.shape[0]
        if old_rows < vocabulary.size:
            # Means of old rows would give all codes nearly the same start; codes need room between them.
            model.resize_token_embeddings(vocabulary.size, mean_resizing=False)
            for table in {model.get_input_embeddings(), model.get_output_embeddings()} - {None}:
                nn.init.normal_(cast(nn.Embedding, table).weight.data[old_rows:], std=NEW_ROW_STD)
        return model


class Remembers(Protocol):
    """What carries something from one part of a row to the next (`unimodel.memory.Memory`)."""

    @property
    def segment_tokens(self) -> int: ...

    def hidden(self, backbone: Backbone, batch: PackedBatch) -> Tensor: ...


class Backbone(nn.Module):
    """The decoder as the engine sees it: `PackedBatch` in, logits at the supervised positions out. A `memory` stands
    beside it, and has rows read in segments."""

    def __init__(self, decoder: PreTrainedModel, memory: nn.Module | None = None) -> None:
        super().__init__()
        self.decoder = decoder
        self.memory = memory
        self.sequence = SequenceGroup()
        self.saves_on_host = False
        self.has_grid_positions = decoder.config.model_type == "qwen3_5_text"

    def forward(self, batch: PackedBatch) -> Tensor:
        """[targets, vocabulary] logits in the row-major order of `batch.target != -100`, of this rank's places.

        A batch without any target still runs the head on its first token and returns an empty slice of it: every rank
        must touch every parameter in every step, or collectives of ZeRO hang.
        """
        hidden = self.hidden(batch)
        supervised = (self.sequence.part(batch).target != NO_TARGET).flatten().nonzero().squeeze(1)
        flat = hidden.flatten(0, 1)
        if len(supervised) == 0:
            return self.decoder.lm_head(flat[:1]) * 0.0
        return self.decoder.lm_head(flat[supervised])

    @property
    def segment_tokens(self) -> int | None:
        """Of which rows are a whole number, where there is a memory."""
        return cast(Remembers, self.memory).segment_tokens if self.memory is not None else None

    def hidden(self, batch: PackedBatch) -> Tensor:
        """[rows, length, dim] last hidden states of this rank's places."""
        if self.memory is not None:
            return cast(Remembers, self.memory).hidden(self, batch)
        own = self.sequence.part(replace(batch, position_ids=self._positions(batch)))
        # With checkpointing, which has hooks of its own, that is the input of every layer.
        saving = save_on_cpu(pin_memory=own.input_ids.is_cuda) if self.saves_on_host else nullcontext()
        with saving:
            outputs = self.decoder.model(
                input_ids=own.input_ids,
                position_ids=own.position_ids,
                attention_mask=self._by_layer(attention_mask(batch, self.decoder.config._attn_implementation or DENSE)),
                use_cache=False,
                **({"sequence": self.sequence} if self.sequence.size > 1 else {}),
            )
        return outputs.last_hidden_state

    def embed(self, ids: Tensor) -> Tensor:
        """[..., dim] of ids [...]."""
        return self.decoder.get_input_embeddings()(ids)

    def hidden_of(self, embeds: Tensor, positions: Tensor, document: Tensor, block: Tensor, stream: Tensor) -> Tensor:
        """[rows, length, dim] last hidden states of embeddings, wherever they are from; `positions` int64 [4, rows,
        length] are (index, time, height, width), the others what the visibility rule looks at, [rows, length]."""
        mask = attention_mask(Visibility(document, block, stream), self.decoder.config._attn_implementation or DENSE)
        return self.decoder.model(
            inputs_embeds=embeds,
            position_ids=positions if self.has_grid_positions else positions[0],
            attention_mask=self._by_layer(mask),
            use_cache=False,
        ).last_hidden_state

    def hidden_after(self, input_ids: Tensor, position_ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """[rows, length, dim] last hidden states of tokens that come after those whose keys and values `cache` holds.

        `position_ids` [4, rows, length] are (index, time, height, width); `mask` bool [rows, 1, length, keys] says
        which keys each token sees; `cache.update(key, value, layer)` takes the new keys and returns all of them.
        """
        return self.hidden_after_embeds(self.embed(input_ids), position_ids, mask, cache)

    def hidden_after_embeds(self, embeds: Tensor, position_ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """The same for embeddings [rows, length, dim], wherever they are from."""
        return self.decoder.model(
            inputs_embeds=embeds,
            position_ids=position_ids if self.has_grid_positions else position_ids[0],
            attention_mask=self._by_layer(mask),
            past_key_values=cache,
            use_cache=False,
        ).last_hidden_state

    def logits(self, hidden: Tensor, ids: range) -> Tensor:
        """[..., len(ids)] logits of these ids alone, from hidden states [..., dim]."""
        return nn.functional.linear(hidden, self.decoder.lm_head.weight[ids.start : ids.stop])

    def _by_layer(self, mask: Tensor | BlockMask) -> Any:
        """The mask as the decoder takes it: Qwen3.5 by kind of layer, for it cannot tell the kind of a block mask."""
        by_layer = self.decoder.config.model_type == "qwen3_5_text"
        return {"full_attention": mask, "linear_attention": None} if by_layer else mask

    def _positions(self, batch: PackedBatch) -> Tensor:
        """[4, rows, length] (index, time, height, width) for 3-D rotary positions, [rows, length] otherwise."""
        index = reading_index(batch.document, batch.stream)
        return torch.cat([index[None], batch.position_ids]) if self.has_grid_positions else index
