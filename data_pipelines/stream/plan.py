"""What every row of a stage holds: a pure function of (seed, stage, index, mixture), computed window by window.

A window is WINDOW_ROWS rows. Samples are drawn by the shares of the mixture at that point of the stage, packed by
best-fit decreasing, and the rows shuffled, since decreasing fit sorts them by length; those drawn last that no longer
fit open the next window. No sample is read for it, and no rank, worker or prefetch depth enters. The state is what
stood before the window and the row reached in it: a restart plans that one window again and goes on in its middle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from data_pipelines.stream.mixture import Debt, Ingredient, shares_at
from data_pipelines.stream.order import Draw, SampleOrder
from data_pipelines.stream.packing import best_fit_decreasing
from data_pipelines.stream.randomness import keyed_generator

WINDOW_ROWS = 256
QUADRATIC_TOKENS = 4096.0
"""Length at which a document's attention costs as much as everything else: about 6 hidden sizes in a plain decoder."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """Where a stream stands. All but `row` is as it was before the window under way."""

    window: int = 0
    row: int = 0
    """Rows of the window that were given out."""
    drawn: tuple[int, ...] = ()
    """Samples drawn of every ingredient."""
    owed: tuple[float, ...] = ()
    """Tokens owed to every ingredient; negative when it got more than its share."""

    @staticmethod
    def from_json(values: dict[str, Any]) -> StreamState:
        """The reverse of `dataclasses.asdict`, also after JSON. Raises TypeError for other keys."""
        return replace(StreamState(**values), drawn=tuple(values.get("drawn", ())), owed=tuple(values.get("owed", ())))


class Placed(NamedTuple):
    """A draw with its length in tokens."""

    draw: Draw
    length: int


Row = tuple[Placed, ...]


class Plan:
    """The rows of one stage, from `state` on.

    `measure(draw)` is the length of a draw in tokens, known without reading its sample; `total_rows` the rows of the
    whole stage, by which progress is told. Raises ValueError for an empty mixture or an ingredient without samples.
    """

    def __init__(
        self,
        mixture: Sequence[Ingredient],
        measure: Callable[[Draw], int],
        *,
        seed: int,
        stage: str,
        row_tokens: int,
        total_rows: int,
        state: StreamState | None = None,
    ) -> None:
        if not mixture:
            raise ValueError(f"stage {stage}: the mixture is empty")
        for ingredient in mixture:
            if not ingredient.shard_samples.sum():
                raise ValueError(f"stage {stage}: ingredient '{ingredient.name}' of the mixture has no samples")
        self._mixture, self._measure = tuple(mixture), measure
        self._seed, self._stage = seed, stage
        self._row_tokens, self._total_rows = row_tokens, total_rows
        self._orders = [
            SampleOrder(ingredient.shard_samples, seed, stage, number) for number, ingredient in enumerate(mixture)
        ]
        self.seek(state or StreamState())

    def seek(self, state: StreamState) -> None:
        """Goes on from `state`. Raises ValueError when it is of a mixture with other ingredients."""
        count = len(self._mixture)
        if not state.drawn:
            state = replace(state, drawn=(0,) * count, owed=(0.0,) * count)
        if len(state.drawn) != count:
            raise ValueError(f"the stream's state is of {len(state.drawn)} ingredients, the mixture has {count}")
        self.state = self._next = state
        self._rows: list[Row] | None = None

    def take(self, count: int) -> list[Row]:
        """The next `count` rows. Advances `state`."""
        taken: list[Row] = []
        while len(taken) < count:
            if self._rows is None:
                self._rows, self._next = self._plan_window(self.state)
            part = self._rows[self.state.row : self.state.row + count - len(taken)]
            taken += part
            self.state = replace(self.state, row=self.state.row + len(part))
            if self.state.row == len(self._rows):
                self.state, self._rows = self._next, None
        return taken

    def shards_ahead(self) -> list[Draw]:
        """A sample of every shard that the next window is likely to draw from and of those after them: what planning it
        will ask to be measured comes from these shards."""
        counts = [after - before for after, before in zip(self._next.drawn, self.state.drawn, strict=True)]
        return [
            Draw(ingredient, *place)
            for ingredient, (order, count) in enumerate(zip(self._orders, counts, strict=True))
            for place in order.shards_from(self._next.drawn[ingredient], count)
        ]

    def _plan_window(self, state: StreamState) -> tuple[list[Row], StreamState]:
        """The rows of a window, and the state before the one after it."""
        shares = shares_at(self._mixture, min(1.0, state.window * WINDOW_ROWS / self._total_rows))
        placed = self._draw(shares, state, WINDOW_ROWS * self._row_tokens)
        rows = best_fit_decreasing([p.length for p in placed], self._row_tokens)
        while len(rows) > WINDOW_ROWS:
            lengths = sorted(sum(placed[i].length for i in row) for row in rows)
            excess = sum(lengths[: len(rows) - WINDOW_ROWS])
            while excess > 0:
                excess -= placed.pop().length
            rows = best_fit_decreasing([p.length for p in placed], self._row_tokens)
        keyed_generator(self._seed, self._stage, "rows", state.window).shuffle(rows)
        return [tuple(placed[i] for i in row) for row in rows], self._after(shares, state, placed)

    def _draw(self, shares: list[float], state: StreamState, tokens: int) -> list[Placed]:
        """The samples that come next, `tokens` tokens of them or a part of one more."""
        debt, drawn, placed = Debt(shares, state.owed), list(state.drawn), []
        while tokens > 0:
            ingredient = debt.next_ingredient()
            draw = Draw(ingredient, *self._orders[ingredient][drawn[ingredient]])
            length = self._measure(draw)
            placed.append(Placed(draw, length))
            debt.pay(ingredient, length)
            drawn[ingredient] += 1
            tokens -= length
        return placed

    def _after(self, shares: list[float], state: StreamState, placed: list[Placed]) -> StreamState:
        """The state when exactly `placed` was drawn."""
        tokens, drawn = [0] * len(shares), list(state.drawn)
        for draw, length in placed:
            tokens[draw.ingredient] += length
            drawn[draw.ingredient] += 1
        debt = Debt(shares, state.owed)
        debt.settle(tokens)
        return StreamState(state.window + 1, 0, tuple(drawn), tuple(debt.owed))


def attention_cost(row: Row, quadratic_tokens: float = QUADRATIC_TOKENS) -> float:
    """Relative cost of a row: tokens, and the pairs that attention looks at. See QUADRATIC_TOKENS."""
    return sum(placed.length * (1.0 + placed.length / quadratic_tokens) for placed in row)
