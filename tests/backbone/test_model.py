"""The backbone: stock decoders of three families, logits only where asked, rows added for new ids.

Run: pytest tests/backbone/test_model.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_sequences import BUILDER, PAD_ID, TINY_BACKBONE, VOCABULARY, all_logits, laid_out, tiny_backbone, toy_episode

from unimodel.backbone.attention import BLOCKS, DENSE, attention_implementation
from unimodel.backbone.model import Backbone, build_decoder
from unimodel.batch import PackedBatch, pack
from unimodel.config import BackboneConfig
from unimodel.config_objectives import NextTokenConfig
from unimodel.layout import CAUSAL, NO_TARGET
from unimodel.objectives.next_token import next_token

FAMILIES = ("qwen3_5_text", "qwen3", "llama")


def of_family(family: str, seed: int = 0) -> Backbone:
    return Backbone(build_decoder(TINY_BACKBONE.model_copy(update={"family": family}), VOCABULARY, seed)).eval()


def captions() -> PackedBatch:
    """Two packed captions of pictures, and an empty row."""
    sequences = [
        next_token(BUILDER.image_to_text(e.frames[0], e.captions[2], e.key), NextTokenConfig(kind="next_token"), 0)
        for e in (toy_episode(1), toy_episode(2))
    ]
    return pack([sequences, []], 96, PAD_ID)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_stand_at_the_targets_in_row_major_order(family: str) -> None:
    backbone, batch = of_family(family), captions()
    with torch.no_grad():
        assert torch.allclose(backbone(batch), all_logits(backbone, batch)[batch.target != NO_TARGET], atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_biases_and_the_width_of_initial_weights_reach_the_decoder(family: str) -> None:
    update = {"family": family, "attention_bias": True, "initializer_range": 0.1}
    decoder = build_decoder(TINY_BACKBONE.model_copy(update=update), VOCABULARY, 0)
    attention = decoder.model.layers[0].self_attn
    assert all(layer.bias is not None for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
    assert 0.09 < float(decoder.get_input_embeddings().weight.detach().std()) < 0.11


@pytest.mark.parametrize("family", FAMILIES)
def test_residual_scale_shrinks_what_layers_add_and_nothing_else(family: str) -> None:
    plain = of_family(family).decoder.state_dict()
    for scale in (0.0, 0.25):
        config = TINY_BACKBONE.model_copy(update={"family": family, "residual_scale": scale})
        for name, value in build_decoder(config, VOCABULARY, 0).state_dict().items():
            added = name.endswith(("o_proj.weight", "down_proj.weight"))
            assert torch.equal(value, plain[name] * (scale if added else 1.0)), name


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_text_has_the_logits_of_the_stock_decoder(family: str) -> None:
    """So an export answers plain `AutoModelForCausalLM` as it answered in training, positions and mask included."""
    backbone = of_family(family)
    ids = np.random.default_rng(0).integers(3, VOCABULARY.text_size, size=20)
    batch = pack([[laid_out(ids, np.full(20, CAUSAL))]], 20, PAD_ID)
    with torch.no_grad():
        stock = backbone.decoder(input_ids=torch.from_numpy(ids)[None]).logits
    assert (all_logits(backbone, batch) - stock).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_neighbour_changes_nothing(family: str) -> None:
    """Also with one-dimensional positions, which restart at every document."""
    backbone, batch = of_family(family), captions()
    second = batch.document[0] == 1
    first_changed = torch.where(batch.document == 0, 7, batch.input_ids)
    before, after = (all_logits(backbone, b)[0] for b in (batch, replace(batch, input_ids=first_changed)))
    assert torch.equal(before[second], after[second])
    assert not torch.equal(before[batch.document[0] == 0], after[batch.document[0] == 0])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_block_masks_give_what_dense_masks_give(family: str) -> None:
    """What runs on a GPU, on a CPU: forward only, as FlexAttention has no backward pass there. It compiles first."""
    dense, blocks, batch = of_family(family), of_family(family), captions()
    dense.decoder.set_attn_implementation(DENSE)
    blocks.decoder.set_attn_implementation(BLOCKS)
    with torch.no_grad():
        assert torch.allclose(blocks(batch), dense(batch), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_family_takes_the_attention_of_every_device(family: str, device: str) -> None:
    """transformers refuses FlexAttention, by its own name, for some."""
    name = attention_implementation(torch.device(device))
    decoder = of_family(family).decoder
    decoder.set_attn_implementation(name)
    assert decoder.config._attn_implementation == name


def test_only_grid_positions_tell_equal_patches_apart() -> None:
    """Moving rows and columns changes a picture's logits where the family has 3-D positions."""
    batch = captions()
    moved = batch.position_ids.clone()
    moved[1] *= 2
    for family in FAMILIES:
        backbone = tiny_backbone() if family == "qwen3_5_text" else of_family(family)
        same = torch.equal(all_logits(backbone, batch), all_logits(backbone, replace(batch, position_ids=moved)))
        assert same == (family != "qwen3_5_text"), family


def test_batch_without_targets_still_touches_every_parameter() -> None:
    """A rank that skipped one would hang the collectives of ZeRO."""
    backbone = tiny_backbone().train()
    batch = captions()
    logits = backbone(replace(batch, target=torch.full_like(batch.target, NO_TARGET)))
    logits.sum().backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in backbone.parameters())


def test_weights_are_a_function_of_the_seed_and_leave_torch_randomness_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, again, other = (dict(of_family("qwen3", seed).named_parameters()) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), expected)
    name = "decoder.model.layers.0.mlp.up_proj.weight"
    assert torch.equal(one[name], again[name]) and not torch.equal(one[name], other[name])


def test_pretrained_weights_keep_their_rows_and_get_new_ones(tmp_path: Path) -> None:
    build_decoder(TINY_BACKBONE, VOCABULARY, 5).save_pretrained(tmp_path)
    larger = replace(VOCABULARY, image_size=900)
    settings = BackboneConfig(pretrained=str(tmp_path))
    grown = build_decoder(settings, larger, 0).get_input_embeddings().weight
    old = build_decoder(TINY_BACKBONE, VOCABULARY, 5).get_input_embeddings().weight
    assert grown.shape == (larger.size, TINY_BACKBONE.hidden_size) and larger.size > VOCABULARY.size
    assert torch.equal(grown[: VOCABULARY.size], old)
    new = grown[VOCABULARY.size :]
    assert len(torch.unique(new, dim=0)) == len(new), "codes need room between them"
    assert 0.01 < float(new.detach().std()) < 0.04
