"""Where records are, and exact search: every record that is allowed is compared with every query."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from unimodel.memory.record import ROW, UNSTORED, Hits, Where
from unimodel.memory.segments import Damage, Segment, SegmentEntry

CHUNK_ROWS = 4096
"""Keys compared at once: in fp32 they should stay in the processor's cache."""


class Index:
    """The segments of a store, in the order of their ids, and what is found in them."""

    def __init__(self, segments: list[Segment]) -> None:
        self.segments = segments

    def __len__(self) -> int:
        """Records that are not forgotten."""
        return sum(int((~segment.is_forgotten).sum()) for segment in self.segments)

    @property
    def entries(self) -> list[SegmentEntry]:
        return [segment.entry for segment in self.segments]

    @property
    def nbytes(self) -> int:
        """Of the records that are not forgotten."""
        return sum(int(segment.live_bytes().sum()) for segment in self.segments)

    def replace_tail(self, tail: Segment) -> None:
        """After an append: the same last segment, grown, or a new one."""
        if self.segments and self.segments[-1].entry.number == tail.entry.number:
            tail.forget(np.flatnonzero(self.segments.pop().is_forgotten))
        self.segments.append(tail)

    def find(self, ids: Iterable[int]) -> list[tuple[Segment, int]]:
        """Segment and place of each. Raises LookupError for one that is not there, ValueError where damage hides it."""
        found = []
        for id_ in map(int, ids):
            owner = bisect.bisect_right(self.segments, id_, key=lambda segment: segment.entry.first_id) - 1
            place = self.segments[owner].place(id_) if owner >= 0 else -1
            if place < 0:
                if owner >= 0:
                    self.segments[owner].check(self.segments[owner].live)
                raise LookupError(f"there is no record {id_}: it was forgotten, rewound or never written")
            found.append((self.segments[owner], place))
        return found

    def live(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[n] each: the rows of what is not forgotten, the number of its segment in `segments`, its place there."""
        places = [segment.live for segment in self.segments]
        owners = np.repeat(np.arange(len(places)), [len(own) for own in places])
        rows = [segment.rows[own] for segment, own in zip(self.segments, places, strict=True)]
        return np.concatenate([np.empty(0, ROW), *rows]), owners, np.concatenate([np.empty(0, np.int64), *places])

    def damages(self) -> list[Damage]:
        found = [segment.damage(int(place)) for segment in self.segments for place in segment.live]
        return [damage for damage in found if damage]

    def search_keys(self, query: np.ndarray, k: int, where: Where) -> Hits:
        """The k largest dot products of `query` fp32 [q, dim] with the keys.

        Keys are read in fp16 and multiplied in fp32; what may be among the best is then summed again in fp64, record by
        record. So equal keys score equally, and a result depends neither on how records lie in files nor on threads.
        """
        queries = torch.from_numpy(query)
        best = _Best(len(query), k)
        norms = np.linalg.norm(query, axis=1)
        buffer = torch.empty(CHUNK_ROWS, query.shape[1])
        for segment in self.segments:
            # Either sum is off by less than dim * 2^-24 * |query| * |key| (Higham, Accuracy and Stability, 3.1).
            slack = 2 * query.shape[1] * 2.0**-24 * norms * segment.entry.largest_norm
            for places in _allowed(segment, where):
                keys = torch.from_numpy(segment.keys["key"])[places]
                rough = (queries @ buffer[: len(keys)].copy_(keys).T).numpy()
                ids = segment.rows["id"][places]

                def exact(number: int, chosen: np.ndarray, keys: torch.Tensor = keys) -> np.ndarray:
                    return (keys[chosen].numpy().astype(np.float64) * query[number]).sum(axis=1)

                best.offer(rough, ids, slack, exact)
        return self._intact(best.hits())

    def search_poses(self, pose: np.ndarray, k: int, where: Where) -> Hits:
        """The k nearest of `pose` [q, pose_dims] by Euclidean distance. Records without a pose are never found."""
        best = _Best(len(pose), k)
        no_slack = np.zeros(len(pose))
        for segment in self.segments:
            for places in _allowed(segment, where):
                poses = segment.rows["pose"][places][:, : pose.shape[1]].astype(np.float64)
                has_pose = ~np.isnan(poses[:, 0])
                poses, ids = poses[has_pose], segment.rows["id"][places][has_pose]
                scores = 0.0 - np.sqrt(np.square(poses[None] - pose[:, None]).sum(axis=2))

                def exact(number: int, chosen: np.ndarray, scores: np.ndarray = scores) -> np.ndarray:
                    return scores[number, chosen]

                best.offer(scores, ids, no_slack, exact)
        return self._intact(best.hits())

    def _intact(self, hits: Hits) -> Hits:
        """Raises ValueError when one of them is damaged."""
        for segment, place in self.find(np.unique(hits.ids[hits.ids != UNSTORED])):
            segment.check([place])
        return hits


def as_queries(values: np.ndarray, width: int, dtype: type[np.floating]) -> np.ndarray:
    """Raises ValueError unless `values` are finite numbers [queries, width]."""
    queries = np.asarray(values, dtype)
    if queries.ndim != 2 or queries.shape[1] != width or not np.isfinite(queries).all():
        raise ValueError(f"a search takes finite numbers [queries, {width}], not {list(queries.shape)}")
    return queries


def _allowed(segment: Segment, where: Where) -> Iterator[slice | np.ndarray]:
    """The places to compare, chunk by chunk: a slice where that is all of it."""
    mask = where.mask(segment.rows)
    if segment.is_forgotten.any():
        mask = ~segment.is_forgotten if mask is None else mask & ~segment.is_forgotten
    for start in range(0, len(segment.rows), CHUNK_ROWS):
        if mask is None:
            yield slice(start, start + CHUNK_ROWS)
        elif (places := start + np.flatnonzero(mask[start : start + CHUNK_ROWS])).size:
            yield places


class _Best:
    """The best so far of every query."""

    def __init__(self, queries: int, k: int) -> None:
        if k < 1:
            raise ValueError(f"a search for the best {k} finds nothing: k must be at least 1")
        self._ids = np.full((queries, k), UNSTORED, np.int64)
        self._scores = np.full((queries, k), -np.inf)

    def offer(
        self, rough: np.ndarray, ids: np.ndarray, slack: np.ndarray, exact: Callable[[int, np.ndarray], np.ndarray]
    ) -> None:
        """`rough` [q, n] scores of records `ids` [n] that are off by less than half of `slack` [q]; `exact` gives those
        of some places for one query."""
        k = self._ids.shape[1]
        floor = self._scores[:, -1] - slack
        if rough.shape[1] > k:
            floor = np.maximum(floor, -np.partition(-rough, k - 1, axis=1)[:, k - 1] - slack)
        for number in np.flatnonzero((rough >= floor[:, None]).any(axis=1)):
            chosen = np.flatnonzero(rough[number] >= floor[number])
            scores = np.concatenate([self._scores[number], exact(int(number), chosen)])
            names = np.concatenate([self._ids[number], ids[chosen]])
            order = np.lexsort((names, -scores))[:k]
            self._scores[number], self._ids[number] = scores[order], names[order]

    def hits(self) -> Hits:
        return Hits(self._ids, self._scores.astype(np.float32))
