"""Decode steps whose tensors stay where they are, so that CUDA replays them as graphs.

A step of n rows runs in the next larger bucket. The rows that are left over are the bare base's,
and write to the block that is nobody's.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

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
from service.base.segmented.pool import named
from service.base.segmented.products import Products, choose
from service.base.segmented.slots import Slots
from service.telemetry import logger

USUAL = ("q_proj", "k_proj", "v_proj", "o_proj")
"""What adapters target where nobody says otherwise."""
MOST_KINDS = 6

_log = logger(__name__)


def buckets(most: int) -> list[int]:
    """Give the numbers of rows that are captured: 1, 2, 4, 8, then by eights."""
    return [n for n in (1, 2, 4, *range(8, most, 8)) if n < most] + [most]


class StaticBatch:
    """Implements `Pass` for one token in each of at most `rows` rows."""

    def __init__(
        self, slots: Slots, layers: frozenset[str], cache: KvCache, rows: int, columns: int
    ) -> None:
        """Send rows through the adapters at `layers` only."""
        pool, device = slots.pool, slots.pool.device
        self.tokens = self.adapted = rows
        self.layers = layers
        self.dropout: Dropout | None = None
        self.pause = go_on
        self.ids = torch.zeros(rows, dtype=torch.int64, device=device)
        self.positions = torch.zeros((1, rows), dtype=torch.int64, device=device)
        self.scaling = self._scalings = torch.zeros((rows, 1), dtype=pool.dtype, device=device)
        self.products: Products
        self._slots, self._size = slots, cache.size
        self._places = torch.zeros(rows, dtype=torch.int64, device=device)
        self._tables = torch.zeros((rows, columns), dtype=torch.int64, device=device)
        self._lengths = torch.ones(rows, dtype=torch.int64, device=device)
        everyone = torch.arange(rows, device=device)
        self._paged = paged(cache, self._places, Singles(everyone, self._tables, self._lengths))
        self.attend: Attend = self._paged
        self._tiled = None
        if device.type == "cuda":
            from service.base.segmented.products_triton import unused

            self._tiled = self.products = unused(rows, device)

    def weights(self, layer: str) -> tuple[Tensor, Tensor]:
        """See Pass."""
        return self._slots.pool.layer(layer)

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
        self._tables[: len(chunks), : tables.shape[1]].copy_(tables)
        self._tables[len(chunks) :, :1] = 0
        self._paged.renew()
        self._adapt([slot for slot in slots if slot is not None])

    def _adapt(self, slots: Sequence[int]) -> None:
        """Say which slot each of the first rows goes through; the others meet no adapter."""
        scalings = [self._slots[slot].scaling for slot in slots]
        _set(self._scalings[:, 0], scalings + [0.0] * (self.tokens - len(slots)))
        rows = Counter(slots)
        sizes, present = list(rows.values()), list(rows)
        if self._tiled is not None:
            self._tiled.put(sizes, present)
            return
        # Without a graph nothing has to stay as it is.
        self.adapted, self.scaling = len(slots), self._scalings[: len(slots)]
        self.products = choose(sizes, present, self._slots.pool.device)


class Graphs:
    """Makes a step when it is first wanted; captured once, replayed ever after.

    There is one for each bucket and each set of layers that adapters target: what no row goes
    through costs nothing. Beyond MOST_KINDS such sets, rows go through all layers.
    """

    def __init__(self, base: SegmentedBase, cache: KvCache, most: int, columns: int) -> None:
        self._base = base
        self._cache = cache
        self._columns = columns
        self._buckets = buckets(most)
        self._slots: Slots | None = None
        self._kinds: list[frozenset[str]] = []
        self._steps: dict[tuple[int, frozenset[str]], _Step] = {}
        cuda = base.device.type == "cuda"
        # One replay at a time, and each one's logits are read before the next.
        self._memory = torch.cuda.graph_pool_handle() if cuda else None

    def logits(
        self,
        adapters: Adapters,
        slots: Sequence[int | None],
        chunks: Sequence[Chunk],
        tables: Tensor,
    ) -> Tensor:
        """Run one step of rows sorted by slot; the logits are overwritten by the next."""
        rows = next(bucket for bucket in self._buckets if bucket >= len(chunks))
        present = {slot for slot in slots if slot is not None}
        step = self._step(adapters, rows, adapters.layers(present))
        step.batch.fill(slots, chunks, tables)
        return step.run()[: len(chunks)]

    def warm(self, adapters: Adapters) -> None:
        """Make the usual steps now, so that no request waits for them."""
        everywhere = adapters.slots.pool.shapes
        usual = frozenset(name for name in everywhere if any(named(name, t) for t in USUAL))
        with torch.inference_mode():
            for layers in (frozenset[str](), usual, frozenset(everywhere)):
                for rows in reversed(self._buckets):
                    self._step(adapters, rows, layers)

    def _step(self, adapters: Adapters, rows: int, layers: frozenset[str]) -> "_Step":
        if self._slots is not adapters.slots:
            # They have been widened: the captured ones read the old ones.
            self._slots, self._kinds, self._steps = adapters.slots, [], {}
        if layers not in self._kinds:
            if len(self._kinds) < MOST_KINDS:
                self._kinds.append(layers)
            else:
                layers = frozenset(adapters.slots.pool.shapes)
        if (rows, layers) not in self._steps:
            batch = StaticBatch(adapters.slots, layers, self._cache, rows, self._columns)
            self._steps[rows, layers] = _Step(self._base, batch, self._memory)
        return self._steps[rows, layers]


class _Step:
    """One bucket's forward pass."""

    def __init__(self, base: SegmentedBase, batch: StaticBatch, memory: Any) -> None:
        self.batch = batch
        self._base = base
        self._memory = memory
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
        # Other threads may compute meanwhile (dpo, reinforcement).
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            self._logits = self._forward()
        self._graph = graph

    def _forward(self) -> Tensor:
        with self._base.running(self.batch):
            return self._base.logits(self._base.hidden(self.batch, self.batch.ids))


def _set(into: Tensor, values: Sequence[float]) -> None:
    into.copy_(torch.tensor(values, dtype=into.dtype))
