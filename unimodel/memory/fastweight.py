"""A matrix that learns while the world goes on: fast weights under the gated delta rule (Gated DeltaNet, arXiv
2412.06464), or with a momentum (Titans, arXiv 2501.00663, with one matrix instead of an MLP).

Every token of the world writes once: the matrix forgets a little (`decay`), and is corrected towards the token's value
at the token's key as far as it foretold that wrongly. With a momentum, corrections go on for some tokens: what comes
after a surprise is kept as well. The scan over a segment in chunks equals one token at a time, so where a segment ends
changes nothing. Read are a few tokens in front of a segment, asked for by where the last ended.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimodel.memory.delta_rule import scan, scan_with_momentum, steady_rate
from unimodel.memory.protocol import Embed, Prefix, Question, Segment, nothing_asked
from unimodel.memory.state import State

SLOW_DECAY = -7.0
"""Bias of the decay at the start: a token takes about a thousandth of what was there."""

SHORT_MOMENTUM = -1.0
"""Bias of the momentum at the start: about a quarter of a correction goes on with the next token."""


class FastWeightMemory(nn.Module):
    """State: `matrix` [rows, heads, head_dim, head_dim], `where` [rows, dim], the last token of the last
    segment, and with a momentum `surprise` [rows, heads, head_dim, head_dim], the correction that goes on."""

    asked_places = 0

    def __init__(self, tokens: int, heads: int, head_dim: int, has_momentum: bool, dim: int, scale: float) -> None:
        super().__init__()
        self.prefix_places, self._heads, self._head_dim, self._dim = tokens, heads, head_dim, dim
        inner = heads * head_dim
        self.key, self.value = nn.Linear(dim, inner, bias=False), nn.Linear(dim, inner, bias=False)
        self.rate, self.decay = nn.Linear(dim, heads), nn.Linear(dim, heads)
        self.momentum = nn.Linear(dim, heads) if has_momentum else None
        self.query = nn.Linear(dim, inner, bias=False)
        self.embed_questions, self.embed_slots = nn.Embedding(tokens, inner), nn.Embedding(tokens, dim)
        self.out_norm, self.out = nn.RMSNorm(inner), nn.Linear(inner, dim, bias=False)
        for linear in (self.key, self.value, self.query, self.rate):
            nn.init.normal_(linear.weight, std=dim**-0.5)
        nn.init.zeros_(self.rate.bias)
        nn.init.zeros_(self.decay.weight)
        nn.init.constant_(self.decay.bias, SLOW_DECAY)
        if self.momentum is not None:
            nn.init.zeros_(self.momentum.weight)
            nn.init.constant_(self.momentum.bias, SHORT_MOMENTUM)
        nn.init.normal_(self.out.weight, std=scale * inner**-0.5)
        nn.init.normal_(self.embed_slots.weight, std=scale)

    def init(self, rows: int, device: torch.device) -> State:
        matrix = torch.zeros(rows, self._heads, self._head_dim, self._head_dim, device=device)
        state = {"matrix": matrix, "where": torch.zeros(rows, self._dim, device=device)}
        return state if self.momentum is None else state | {"surprise": torch.zeros_like(matrix)}

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

    def ask(self, state: State, embed: Embed) -> Question:
        del embed
        return nothing_asked(state, self._dim)

    def write(self, segment: Segment, state: State) -> State:
        """What is no token of the world learns at rate 0 and forgets nothing."""
        key, value, rate, decay = self._writing(segment.tokens)
        where = segment.last_token(state["where"])
        if self.momentum is None:
            clean = segment.clean[..., None].to(rate.dtype)
            return {"matrix": scan(key, value, decay * clean, rate * clean, state["matrix"]), "where": where}
        momentum = nn.functional.logsigmoid(self.momentum(segment.tokens))
        before = state["matrix"], state["surprise"]
        rate = steady_rate(rate, momentum)
        matrix, surprise = scan_with_momentum(key, value, decay, rate, momentum, segment.clean, before)
        return {"matrix": matrix, "where": where, "surprise": surprise}

    def _writing(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys and values [rows, length, heads, head_dim], rates and log decays [rows, length, heads]."""
        shape = (self._heads, self._head_dim)
        key, value = self.key(tokens).unflatten(-1, shape), self.value(tokens).unflatten(-1, shape)
        decay = -nn.functional.softplus(self.decay(tokens))
        return nn.functional.normalize(key, dim=-1), value, self.rate(tokens).sigmoid(), decay
