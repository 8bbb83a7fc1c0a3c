"""The base as generation sees it: chunks of any adapters' sequences in, logits out."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from service.base.generating.adapters import Adapters
from service.base.generating.attention import Span, paged_spans
from service.base.generating.blocks import SIZE, Blocks
from service.base.generating.graphs import Graphs
from service.base.generating.kv import KvCache, KvShape, require_plain_attention
from service.base.generating.room import tokens_that_fit
from service.base.generating.schedule import Chunk
from service.base.generating.tables import Tables
from service.base.segmented.base import SegmentedBase
from service.base.segmented.batch import Batch
from service.base.segmented.layout import Part

CHUNK_TOKENS = {"cpu": 512, "cuda": 2048}
"""Prompt tokens in one step, so that running sequences go on. A GPU is half idle with fewer."""
BESIDE = 64
"""Prompt tokens in a step with next tokens, which they make about twice as long on a CPU."""


class GenerationModel:
    """Owns the cache of `tokens` tokens (0: what memory allows) and `most_adapters` slots.

    The base may be another's too, as long as it is the same thread's. At most `most` sequences
    have a place at once. `static` runs decode steps with tensors that stay where they are, and
    captures them as CUDA graphs where there is CUDA; it is the default there.
    """

    def __init__(
        self,
        base: SegmentedBase,
        *,
        most: int,
        most_adapters: int,
        tokens: int,
        context: int,
        size: int = SIZE,
        static: bool | None = None,
    ) -> None:
        self.adapters = Adapters(base, most_adapters)
        self.chunk_tokens = CHUNK_TOKENS[base.device.type]
        self.most = most
        self._base = base
        shape = measure(base)
        tokens = tokens or tokens_that_fit(shape, base.device, context=context, sequences=most)
        self.blocks = Blocks(max(1, tokens // size), size)
        self._cache = KvCache(shape, count=self.blocks.count, size=size, device=base.device)
        self._tables = Tables(most, min(self.blocks.count, self.blocks.needed(context)))
        static = base.device.type == "cuda" if static is None else static
        # What is launched anew, operation by operation, is long however few its tokens are.
        self.beside = 0 if static else BESIDE
        self._graphs = Graphs(base, self._cache, most, self._tables.columns) if static else None

    def warm(self) -> None:
        """Capture what will be replayed, before anybody waits for it."""
        if self._graphs is not None:
            self._graphs.warm(self.adapters)

    def clear(self, blocks: Sequence[int]) -> None:
        """Forget what was in blocks."""
        self._cache.clear(blocks)

    def drop(self, keys: Collection[int]) -> None:
        """Forget sequences."""
        self._tables.drop(keys)

    def forward(self, adapters: Sequence[str | None], chunks: Sequence[Chunk]) -> Tensor:
        """Compute chunks, each through its own adapter (None: the base).

        Gives the logits after those that are their sequence's last, `[n, vocabulary]`, in the given
        order. Raises KeyError for an adapter that is not there.
        """
        order, sorted_slots, sorted_chunks = self._sorted(adapters, chunks)
        decodes = all(len(chunk.tokens) == 1 and chunk.last for chunk in chunks)
        if self._graphs is not None and decodes:
            tables = self._tables.of(sorted_chunks)
            logits = self._graphs.logits(self.adapters, sorted_slots, sorted_chunks, tables)
        else:
            logits = self._eager(sorted_slots, sorted_chunks)
        ranks = _ranks(order, chunks)
        return logits if ranks == list(range(len(ranks))) else logits[ranks]

    def score(
        self,
        adapters: Sequence[str | None],
        chunks: Sequence[Chunk],
        following: Sequence[Sequence[int]],
    ) -> list[list[float]]:
        """Compute chunks likewise, and give the log-probabilities of tokens that follow.

        `following` are the tokens after a chunk's first, second and so on; maybe none after its
        last. Raises KeyError for an adapter that is not there.
        """
        order, slots, ordered = self._sorted(adapters, chunks)
        batch, spans = self._batch(slots, ordered)
        places = [
            span.begin + n
            for span, at in zip(spans, order, strict=True)
            for n in range(len(following[at]))
        ]
        tokens = [token for at in order for token in following[at]]
        with self._base.running(batch):
            hidden = self._hidden(batch, ordered)
            found = self._base.logprobs(hidden, places, tokens)
        scores: dict[int, list[float]] = {}
        for at in order:
            scores[at], found = found[: len(following[at])], found[len(following[at]) :]
        return [scores[at] for at in range(len(chunks))]

    def _sorted(
        self, adapters: Sequence[str | None], chunks: Sequence[Chunk]
    ) -> tuple[list[int], list[int | None], list[Chunk]]:
        """Give the order of slots, the bare base last; and slots and chunks in it."""
        slots = [self.adapters.slot(name) for name in adapters]
        order = sorted(range(len(chunks)), key=lambda at: (slots[at] is None, slots[at] or 0))
        return order, [slots[at] for at in order], [chunks[at] for at in order]

    def _eager(self, slots: Sequence[int | None], chunks: Sequence[Chunk]) -> Tensor:
        batch, spans = self._batch(slots, chunks)
        with self._base.running(batch):
            hidden = self._hidden(batch, chunks)
        last = [
            span.begin + span.count - 1
            for span, chunk in zip(spans, chunks, strict=True)
            if chunk.last
        ]
        if len(last) < len(hidden):
            hidden = hidden[last]
        return self._base.logits(hidden)

    def _hidden(self, batch: Batch, chunks: Sequence[Chunk]) -> Tensor:
        ids = [token for chunk in chunks for token in chunk.tokens]
        return self._base.hidden(batch, torch.tensor(ids, device=self._base.device))

    def _batch(
        self, slots: Sequence[int | None], chunks: Sequence[Chunk]
    ) -> tuple[Batch, list[Span]]:
        spans = _spans(chunks)
        singles = [chunk for chunk in chunks if len(chunk.tokens) == 1]
        batch = self._base.batch(
            self.adapters.slots,
            _parts(slots, chunks),
            places=[at for chunk in chunks for at in range(chunk.start, chunk.end)],
            attend=paged_spans(self._cache, spans, self._tables.of(singles)),
        )
        return batch, spans


def measure(base: SegmentedBase) -> KvShape:
    """See what the model's layers keep of a token. Raises ValueError if it is not all alike."""
    require_plain_attention(base.model.config)
    seen: dict[int, tuple[torch.Size, torch.Size, torch.dtype]] = {}

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, **_: object) -> Tensor:
        seen[layer] = (k.shape[1:], v.shape[1:], k.dtype)
        return q

    slots = base.slots(capacity=1, rank=1, dtype=base.dtype)
    batch = base.batch(slots, [Part(None, (1,))], attend=attend)
    with torch.inference_mode(), base.running(batch):
        base.hidden(batch, torch.zeros(1, dtype=torch.int64, device=base.device))
    alike = set(seen.values())
    if len(alike) != 1 or sorted(seen) != list(range(len(seen))):
        raise ValueError("only models whose layers all keep alike keys and values can be served")
    ((keys, values, dtype),) = alike
    if keys != values:
        raise ValueError("only models whose keys and values are alike can be served")
    return KvShape(len(seen), keys[0], keys[1], dtype)


def _spans(chunks: Sequence[Chunk]) -> list[Span]:
    spans, begin = [], 0
    for chunk in chunks:
        spans.append(Span(begin, len(chunk.tokens), chunk.end, chunk.blocks))
        begin += len(chunk.tokens)
    return spans


def _parts(slots: Sequence[int | None], chunks: Sequence[Chunk]) -> list[Part]:
    lengths: dict[int | None, list[int]] = {}
    for slot, chunk in zip(slots, chunks, strict=True):
        lengths.setdefault(slot, []).append(len(chunk.tokens))
    return [Part(slot, tuple(each)) for slot, each in lengths.items()]


def _ranks(order: Sequence[int], chunks: Sequence[Chunk]) -> list[int]:
    """Give where, among the logits in sorted order, those of each last chunk are."""
    rank = {at: n for n, at in enumerate(at for at in order if chunks[at].last)}
    return [rank[at] for at, chunk in enumerate(chunks) if chunk.last]
