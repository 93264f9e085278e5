"""Memory tokens that pass from segment to segment (Recurrent Memory Transformer, arXiv 2207.06881), behind a gate.

They stand in front of a segment; behind it stand as many questions, which see all of it, and what the decoder makes of
these is the next memory. RMT hands that on as it is. Here a gate decides for every number of every token how much of
the old stays (as in a GRU): what was seen many segments ago need not pass the whole decoder once for each of them.

By patch, there is a token for every patch of a picture, at its place in it, and the questions are those that a decoder
answers anyway: what the next frame will be, there. So what is remembered lies where it was seen, and can move on while
it is not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimodel.memory.protocol import Embed, Prefix, Question, Segment
from unimodel.memory.state import State

KEEPING_BIAS = 1.0
"""Of the gate at the start: about 0.7 of the old stays, so that a gradient reaches back some segments."""


class RecurrentMemory(nn.Module):
    """State: `tokens` [rows, tokens, dim]."""

    places: Tensor
    times: Tensor

    def __init__(self, places: Tensor, hidden_id: int | None, dim: int, scale: float) -> None:
        """One token for each of `places`, int64 [2, tokens] height and width; with `hidden_id`, which stands for a code
        that is to be foretold, those of a picture. `scale` is the standard deviation of the decoder's embeddings,
        beside which the tokens stand."""
        super().__init__()
        tokens = places.shape[1]
        self.prefix_places = self.asked_places = tokens
        self._hidden_id = hidden_id
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("times", torch.arange(tokens) * (hidden_id is None), persistent=False)
        self.embed_slots = nn.Embedding(tokens, dim)
        self.embed_questions = nn.Embedding(tokens, dim)
        self.norm = nn.RMSNorm(dim)
        self.candidate = nn.Linear(dim, dim)
        self.gate = nn.Linear(2 * dim, dim)
        nn.init.normal_(self.embed_slots.weight, std=scale)
        nn.init.normal_(self.embed_questions.weight, std=scale * (hidden_id is None))
        nn.init.constant_(self.norm.weight, scale)
        nn.init.normal_(self.candidate.weight, std=dim**-0.5)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, KEEPING_BIAS)

    def init(self, rows: int, device: torch.device) -> State:
        return {"tokens": torch.zeros(rows, self.prefix_places, self.embed_slots.embedding_dim, device=device)}

    def read(self, state: State, embed: Embed) -> Prefix:
        del embed
        tokens = state["tokens"]
        number = torch.arange(self.prefix_places, device=tokens.device)
        return Prefix(
            embeds=self.embed_slots(number) + self.norm(tokens),
            grid=self.places,
            blocks=torch.zeros_like(number),
            shown=torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device),
        )

    def ask(self, state: State, embed: Embed) -> Question:
        tokens = state["tokens"]
        questions = self.embed_questions(torch.arange(self.asked_places, device=tokens.device))
        if self._hidden_id is not None:
            questions = questions + embed(torch.full_like(self.times, self._hidden_id))
        return Question(questions + self.norm(tokens), self.places, self.times)

    def write(self, segment: Segment, state: State) -> State:
        old = state["tokens"]
        kept = self.gate(torch.cat([segment.asked, old], dim=-1)).sigmoid()
        return {"tokens": kept * old + (1 - kept) * self.candidate(segment.asked).tanh()}
