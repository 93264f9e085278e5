"""Draws -> packed rows -> the batches of one rank.

Draws are taken in windows; the sequences of a window are packed into rows by best-fit decreasing (Johnson 1974) and
the rows shuffled, since decreasing fit sorts them by length. Rows are dealt to ranks round robin. The state is two
numbers (window, rows used of it), the same on every rank and for any number of ranks: a restart rebuilds the window
and goes on in the middle of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from data_pipelines.stream.order import Draw, MixtureOrder, StreamState
from unimodel.batch import CorruptedSequence, PackedBatch, pack

WINDOW_DRAWS = 128


class PackedStream:
    """Endless global batches of `rows` packed rows, of which `rank` gets every `num_ranks`-th.

    `build(draw)` reads, tokenises and corrupts one sample; it must be a pure function of the draw.
    """

    def __init__(
        self,
        order: MixtureOrder,
        build: Callable[[Draw], CorruptedSequence],
        *,
        rows: int,
        row_tokens: int,
        pad_id: int,
        state: StreamState | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self._order, self._build = order, build
        self._rows, self._row_tokens, self._pad_id = rows, row_tokens, pad_id
        self._rank, self._num_ranks = rank, num_ranks
        self._window_number, self._window = -1, [[]]
        self.state = state or StreamState()

    def __iter__(self) -> Iterator[PackedBatch]:
        return self

    def __next__(self) -> PackedBatch:
        """This rank's rows of the next global batch: [rows / num_ranks, row_tokens]. Advances `state`."""
        rows: list[list[CorruptedSequence]] = []
        window, row = self.state.window, self.state.row
        while len(rows) < self._rows:
            packed = self._packed_window(window)
            taken = packed[row : row + self._rows - len(rows)]
            rows.extend(taken)
            row += len(taken)
            if row == len(packed):
                window, row = window + 1, 0
        self.state = StreamState(window, row)
        return pack(rows[self._rank :: self._num_ranks], self._row_tokens, self._pad_id)

    def _packed_window(self, number: int) -> list[list[CorruptedSequence]]:
        if number != self._window_number:
            first = number * WINDOW_DRAWS
            sequences = [self._build(self._order[n]) for n in range(first, first + WINDOW_DRAWS)]
            rows = best_fit_decreasing([len(sequence) for sequence in sequences], self._row_tokens)
            self._order.generator("rows", number).shuffle(rows)
            self._window = [[sequences[i] for i in row] for row in rows]
            self._window_number = number
        return self._window


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """Groups of indices whose lengths sum to at most `capacity`; longest first, each into the fullest row it fits.

    Raises ValueError when one length alone exceeds `capacity`.
    """
    rows: list[list[int]] = []
    space: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > capacity:
            raise ValueError(
                f"a sequence of {length} tokens does not fit a row of {capacity}: raise batch.row_tokens to at least "
                f"{length}, or take fewer frames or shorter text"
            )
        fitting = [row for row, left in enumerate(space) if left >= length]
        if fitting:
            best = min(fitting, key=lambda row: space[row])
            rows[best].append(index)
            space[best] -= length
        else:
            rows.append([index])
            space.append(capacity - length)
    return rows
