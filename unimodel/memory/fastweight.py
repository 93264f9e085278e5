"""A matrix that learns while the world goes on: fast weights under the gated delta rule (Gated DeltaNet, arXiv
2412.06464; the same surprise-driven write as Titans, arXiv 2501.00663, with one linear layer instead of an MLP).

Every token of the world writes once: the matrix forgets a little (`decay`), and is corrected towards the token's value
at the token's key as far as it foretold that wrongly. The scan over a segment in chunks equals one token at a time, so
where a segment ends changes nothing. Read are a few tokens in front of a segment, asked for by where the last ended.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule

from unimodel.memory.protocol import Embed, Prefix, Segment, nothing_asked
from unimodel.memory.state import State

SLOW_DECAY = -7.0
"""Bias of the decay at the start: a token takes about a thousandth of what was there."""


class FastWeightMemory(nn.Module):
    """State: `matrix` [rows, heads, head_dim, head_dim] and `where` [rows, dim], the last hidden state of the last
    segment."""

    asked_places = 0

    def __init__(self, tokens: int, heads: int, head_dim: int, dim: int, scale: float) -> None:
        super().__init__()
        self.prefix_places, self._heads, self._head_dim, self._dim = tokens, heads, head_dim, dim
        inner = heads * head_dim
        self.key, self.value = nn.Linear(dim, inner, bias=False), nn.Linear(dim, inner, bias=False)
        self.rate, self.decay = nn.Linear(dim, heads), nn.Linear(dim, heads)
        self.query = nn.Linear(dim, inner, bias=False)
        self.embed_questions, self.embed_slots = nn.Embedding(tokens, inner), nn.Embedding(tokens, dim)
        self.out_norm, self.out = nn.RMSNorm(inner), nn.Linear(inner, dim, bias=False)
        for linear in (self.key, self.value, self.query, self.rate):
            nn.init.normal_(linear.weight, std=dim**-0.5)
        nn.init.zeros_(self.rate.bias)
        nn.init.zeros_(self.decay.weight)
        nn.init.constant_(self.decay.bias, SLOW_DECAY)
        nn.init.normal_(self.out.weight, std=scale * inner**-0.5)
        nn.init.normal_(self.embed_slots.weight, std=scale)

    def init(self, rows: int, device: torch.device) -> State:
        heads, head_dim = self._heads, self._head_dim
        return {
            "matrix": torch.zeros(rows, heads, head_dim, head_dim, device=device),
            "where": torch.zeros(rows, self._dim, device=device),
        }

    def read(self, state: State, embed: Embed) -> Prefix:
        del embed
        matrix = state["matrix"]
        rows, number = matrix.shape[0], torch.arange(self.prefix_places, device=matrix.device)
        query = self.embed_questions(number) + self.query(state["where"])[:, None]
        query = nn.functional.normalize(query.unflatten(-1, (self._heads, self._head_dim)), dim=-1)
        found = torch.einsum("rphk,rhkv->rphv", query.float(), matrix).flatten(2)
        return Prefix(
            embeds=self.embed_slots(number) + self.out(self.out_norm(found.to(query.dtype))),
            grid=torch.zeros(2, self.prefix_places, dtype=torch.int64, device=matrix.device),
            blocks=torch.zeros_like(number),
            shown=torch.ones(rows, self.prefix_places, dtype=torch.bool, device=matrix.device),
        )

    def ask(self, state: State) -> Tensor:
        return nothing_asked(state, self._dim)

    def write(self, segment: Segment, state: State) -> State:
        """What is no token of the world learns at rate 0 and forgets nothing."""
        key, value, rate, decay = self._writing(segment.hidden)
        clean = segment.clean[..., None].to(rate.dtype)
        matrix = scan(key, value, decay * clean, rate * clean, state["matrix"])
        last = segment.clean.long() * torch.arange(segment.clean.shape[1], device=matrix.device)
        where = segment.hidden[torch.arange(len(matrix), device=matrix.device), last.argmax(dim=1)]
        return {"matrix": matrix, "where": where.to(state["where"].dtype)}

    def _writing(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys and values [rows, length, heads, head_dim], rates and log decays [rows, length, heads]."""
        shape = (self._heads, self._head_dim)
        key, value = self.key(hidden).unflatten(-1, shape), self.value(hidden).unflatten(-1, shape)
        decay = -nn.functional.softplus(self.decay(hidden))
        return nn.functional.normalize(key, dim=-1), value, self.rate(hidden).sigmoid(), decay


def scan(key: Tensor, value: Tensor, decay: Tensor, rate: Tensor, matrix: Tensor) -> Tensor:
    """The matrix after all tokens: for each, M <- exp(decay) M, then M <- M + rate k (v - M^T k)^T."""
    _, after = torch_chunk_gated_delta_rule(
        key, key, value, g=decay, beta=rate, initial_state=matrix, output_final_state=True
    )
    assert after is not None
    return after
