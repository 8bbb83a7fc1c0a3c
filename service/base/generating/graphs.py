"""Decode steps whose tensors stay where they are, so that CUDA replays them as graphs.

A step of n rows runs in the next larger bucket. Every serving slot is a group of `grouped_mm`, so
their number is always the same; the rows that are left over, and those of the bare base, go through
the slot that is always empty, and write to the block that is nobody's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.base.generating.adapters import Adapters
from service.base.generating.attention import Singles, paged
from service.base.generating.kv import KvCache
from service.base.generating.schedule import Chunk
from service.base.segmented.attention import Attend
from service.base.segmented.base import SegmentedBase
from service.base.segmented.batch import go_on
from service.base.segmented.dropout import Dropout
from service.base.segmented.products import Grouped, Products
from service.base.segmented.slots import Slots
from service.telemetry import logger

_log = logger(__name__)


def buckets(most: int) -> list[int]:
    """Give the numbers of rows that are captured: 1, 2, 4, 8, then by eights."""
    return [n for n in (1, 2, 4, *range(8, most, 8)) if n < most] + [most]


class StaticBatch:
    """Implements `Pass` for one token in each of `rows` rows."""

    def __init__(self, slots: Slots, nothing: int, cache: KvCache, rows: int, columns: int) -> None:
        pool, device = slots.pool, slots.pool.device
        self.tokens = self.adapted = rows
        self.dropout: Dropout | None = None
        self.pause = go_on
        self.layers = frozenset(pool.shapes)
        self.ids = torch.zeros(rows, dtype=torch.int64, device=device)
        self.positions = torch.zeros((1, rows), dtype=torch.int64, device=device)
        self.scaling = torch.zeros((rows, 1), dtype=pool.dtype, device=device)
        self._slots, self._nothing, self._size = slots, nothing, cache.size
        self._places = torch.zeros(rows, dtype=torch.int64, device=device)
        self._tables = torch.zeros((rows, columns), dtype=torch.int64, device=device)
        self._lengths = torch.ones(rows, dtype=torch.int64, device=device)
        self._ends = torch.zeros(pool.capacity, dtype=torch.int32, device=device)
        self._ends[nothing:] = rows
        self.products: Products = Grouped(self._ends)
        everyone = torch.arange(rows, device=device)
        self._paged = paged(cache, self._places, Singles(everyone, self._tables, self._lengths))
        self.attend: Attend = self._paged
        weights = pool.weights
        self._weights = {
            name: (pool.a(weights, name), pool.b(weights, name)) for name in pool.shapes
        }

    def weights(self, layer: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Give all slots' A and B of a layer; the slots are in the dtype to compute in."""
        a, b = self._weights[layer]
        return a.to(dtype), b.to(dtype)

    def fill(self, slots: Sequence[int | None], chunks: Sequence[Chunk], tables: Tensor) -> None:
        """Put in rows sorted by slot, the bare base's last; what is left over means nothing."""
        left = self.tokens - len(chunks)
        starts = [chunk.start for chunk in chunks]
        places = [
            chunk.blocks[chunk.start // self._size] * self._size + chunk.start % self._size
            for chunk in chunks
        ]
        _set(self.ids, [chunk.tokens[0] for chunk in chunks] + [0] * left)
        _set(self.positions[0], starts + [0] * left)
        _set(self._places, places + [0] * left)
        _set(self._lengths, [start + 1 for start in starts] + [1] * left)
        scalings = [0.0 if slot is None else self._slots[slot].scaling for slot in slots]
        _set(self.scaling[:, 0], scalings + [0.0] * left)
        _set(self._ends, self._group_ends(slots))
        self._tables[: len(chunks), : tables.shape[1]].copy_(tables)
        self._tables[len(chunks) :, :1] = 0
        self._paged.renew()

    def _group_ends(self, slots: Sequence[int | None]) -> list[int]:
        ends = [0] * len(self._ends)
        for slot in slots:
            if slot is not None:
                ends[slot] += 1
        for slot in range(1, len(ends)):
            ends[slot] += ends[slot - 1]
        ends[self._nothing] = self.tokens
        return ends


class Graphs:
    """Makes a bucket's step when it is first wanted; captured once, replayed ever after."""

    def __init__(self, base: SegmentedBase, cache: KvCache, most: int, columns: int) -> None:
        self._base = base
        self._cache = cache
        self._columns = columns
        self._buckets = buckets(most)
        self._slots: Slots | None = None
        self._steps: dict[int, _Step] = {}

    def logits(
        self,
        adapters: Adapters,
        slots: Sequence[int | None],
        chunks: Sequence[Chunk],
        tables: Tensor,
    ) -> Tensor:
        """Run one step of rows sorted by slot; the logits are overwritten by the next."""
        if self._slots is not adapters.slots:
            # They have been widened: the captured ones read the old ones.
            self._slots, self._steps = adapters.slots, {}
        rows = next(bucket for bucket in self._buckets if bucket >= len(chunks))
        if rows not in self._steps:
            empty = (adapters.slots, adapters.nothing, self._cache, rows, self._columns)
            self._steps[rows] = _Step(self._base, StaticBatch(*empty))
        step = self._steps[rows]
        step.batch.fill(slots, chunks, tables)
        return step.run()[: len(chunks)]


class _Step:
    """One bucket's forward pass."""

    def __init__(self, base: SegmentedBase, batch: StaticBatch) -> None:
        self.batch = batch
        self._base = base
        self._graph: torch.cuda.CUDAGraph | None = None
        if base.device.type == "cuda":
            try:
                self._capture()
            except RuntimeError as fault:
                # Some models ask the device while they run (rotary tables that grow): slower, then.
                _log.warning("generation.not_captured", rows=batch.tokens, exc_info=fault)

    def run(self) -> Tensor:
        if self._graph is None:
            return self._forward()
        self._graph.replay()
        return self._logits

    def _capture(self) -> None:
        # Kernels are compiled and workspaces made at the first runs; that cannot be captured.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                self._forward()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._forward()
        self._graph = graph

    def _forward(self) -> Tensor:
        with self._base.running(self.batch):
            return self._base.logits(self._base.hidden(self.batch, self.batch.ids))


def _set(into: Tensor, values: Sequence[float]) -> None:
    into.copy_(torch.tensor(values, dtype=into.dtype))
