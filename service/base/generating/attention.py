"""Attention of one step's tokens to their sequences' past, which lies in blocks.

Rows with one new token (most, most of the time) go together, and so do, on a GPU, the chunks of
prompts. Indices and masks are made once for a step, not in each layer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from service.base.generating.kv import KvCache
from service.base.segmented.attention import varlen_causal


class Span(msgspec.Struct, frozen=True):
    """New tokens of one sequence in the row of tokens."""

    begin: int
    count: int
    length: int
    """The sequence's tokens, with these."""
    blocks: Sequence[int]
    """Its blocks, in order."""

    def places(self, size: int, start: int = 0) -> list[int]:
        """Give where its tokens from `start` on lie in the cache."""
        blocks = self.blocks
        return [blocks[at // size] * size + at % size for at in range(start, self.length)]


class PagedAttention(ABC):
    """One step's. `tables` are the blocks of the spans of one token, `[n, blocks]`."""

    def __init__(self, cache: KvCache, spans: Sequence[Span], tables: Tensor) -> None:
        self._cache = cache
        self._device = cache.storage.device
        self._places = self._tensor(
            [p for span in spans for p in span.places(cache.size, span.length - span.count)]
        )
        singles = [span for span in spans if span.count == 1]
        self._tables = tables.to(self._device)
        self._rows = self._tensor([span.begin for span in singles])
        self._lengths = self._tensor([span.length for span in singles])
        self._chunks = [span for span in spans if span.count > 1]

    def __call__(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scaling: float | None,
        window: int | None,
    ) -> Tensor:
        """Keep the new keys and values, and attend: `[T, heads, width]` each."""
        self._cache.write(layer, self._places, k, v)
        if not self._chunks:
            return self._attend_singles(layer, q, scaling, window)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        self._attend_chunks(out, layer, q, scaling, window)
        if len(self._rows):
            out[self._rows] = self._attend_singles(layer, q[self._rows], scaling, window)
        return out

    @abstractmethod
    def _attend_singles(
        self, layer: int, q: Tensor, scaling: float | None, window: int | None
    ) -> Tensor: ...

    @abstractmethod
    def _attend_chunks(
        self, out: Tensor, layer: int, q: Tensor, scaling: float | None, window: int | None
    ) -> None: ...

    def _tensor(self, values: Sequence[int], dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self._device)


class PagedOnCpu(PagedAttention):
    """Gathers the past, and masks what is not one's own."""

    def __init__(self, cache: KvCache, spans: Sequence[Span], tables: Tensor) -> None:
        super().__init__(cache, spans, tables)
        self._blocks = [self._tensor(span.blocks) for span in self._chunks]
        self._masks: dict[tuple[object, int | None], Tensor] = {}

    def _attend_singles(
        self, layer: int, q: Tensor, scaling: float | None, window: int | None
    ) -> Tensor:
        keys, values = self._cache.gather(layer, self._tables)
        mask = self._mask("singles", window, self._of_singles)
        return _attend(q.unsqueeze(1), keys, values, scaling, mask).squeeze(1)

    def _attend_chunks(
        self, out: Tensor, layer: int, q: Tensor, scaling: float | None, window: int | None
    ) -> None:
        for span, blocks in zip(self._chunks, self._blocks, strict=True):
            keys, values = self._cache.gather(layer, blocks)
            mask = self._mask(span.begin, window, lambda w, span=span: _of_chunk(span, w))
            rows = slice(span.begin, span.begin + span.count)
            past = (held[: span.length].unsqueeze(0) for held in (keys, values))
            out[rows] = _attend(q[rows].unsqueeze(0), *past, scaling, mask)[0]

    def _mask(
        self, what: object, window: int | None, make: Callable[[int | None], Tensor]
    ) -> Tensor:
        if (what, window) not in self._masks:
            self._masks[what, window] = make(window)
        return self._masks[what, window]

    def _of_singles(self, window: int | None) -> Tensor:
        at = torch.arange(self._tables.shape[1] * self._cache.size)
        lengths = self._lengths.unsqueeze(-1)
        seen = at < lengths
        if window is not None:
            seen &= at >= lengths - window
        return seen[:, None, None]


class PagedOnGpu(PagedAttention):
    """Reads singles' past where it lies; gathers that of chunks."""

    def __init__(self, cache: KvCache, spans: Sequence[Span], tables: Tensor) -> None:
        super().__init__(cache, spans, tables)
        # Triton comes with the torch of a GPU machine only.
        from service.base.generating.paged_triton import paged_decode

        self._paged_decode = paged_decode
        if chunks := self._chunks:
            rows = [at for span in chunks for at in range(span.begin, span.begin + span.count)]
            self._chunk_rows = self._tensor(rows)
            self._past = self._tensor([p for span in chunks for p in span.places(cache.size)])
            self._new = self._bounds([span.count for span in chunks])
            self._all = self._bounds([span.length for span in chunks])
            self._most_new = max(span.count for span in chunks)
            self._most = max(span.length for span in chunks)

    def _attend_singles(
        self, layer: int, q: Tensor, scaling: float | None, window: int | None
    ) -> Tensor:
        keys, values = self._cache.layers[layer]
        return self._paged_decode(q, keys, values, self._tables, self._lengths, scaling, window)

    def _attend_chunks(
        self, out: Tensor, layer: int, q: Tensor, scaling: float | None, window: int | None
    ) -> None:
        keys, values = self._cache.tokens(layer, self._past)
        out[self._chunk_rows] = varlen_causal(
            q[self._chunk_rows],
            keys,
            values,
            (self._new, self._all),
            (self._most_new, self._most),
            scaling,
            window,
        )

    def _bounds(self, counts: Sequence[int]) -> Tensor:
        return functional.pad(self._tensor(counts, torch.int32).cumsum(0, dtype=torch.int32), (1, 0))


def paged(cache: KvCache, spans: Sequence[Span], tables: Tensor) -> PagedAttention:
    """Make a step's attention for the device that the cache is on."""
    kind = PagedOnGpu if cache.storage.is_cuda else PagedOnCpu
    return kind(cache, spans, tables)


def _attend(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, mask: Tensor) -> Tensor:
    """Attend in `[rows, tokens, heads, width]`; the mask is True for what is seen."""
    shared = q.shape[2] > k.shape[2]
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=scaling, enable_gqa=shared
    )
    return out.transpose(1, 2)


def _of_chunk(span: Span, window: int | None) -> Tensor:
    at = torch.arange(span.length)
    behind = at[-span.count :, None] - at
    seen = behind >= 0
    return seen if window is None else seen & (behind < window)
